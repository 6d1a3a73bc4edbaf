"""The server app: a strategy of Flower's over a PressGrid, the global model evaluated after each round."""

import inspect
import random
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import Strategy

from flowerpress.apps.config import EXTRACT, SEED, WHOLE, Config
from flowerpress.apps.counting import CountingGrid
from flowerpress.apps.data import test_images
from flowerpress.apps.extract import gather
from flowerpress.apps.jobs import job_for
from flowerpress.apps.ordered import OrderedGrid
from flowerpress.apps.results import Results, last_round
from flowerpress.arrays.places import sync
from flowerpress.errors import ConfigError, RunError
from flowerpress.federation.grid import PressGrid
from flowerpress.federation.restore import Dtypes
from flowerpress.federation.resume import Checkpointed

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds, or gather latents; raise RunError if none of them brought a usable reply, or as the grid does."""
    config = Config.read(context.run_config)
    if config.task == EXTRACT:
        gather(grid, config)
        return
    random.seed(config.seed)  # Flower samples nodes with it
    grid = OrderedGrid(grid, config.seed, config.round_timeout) if _order_matters(config) else grid
    press_grid, counting = _pressed(grid, config) if config.codec else None, CountingGrid(grid)
    job = job_for(config, test_images(config.dataset, config.seed, config.image_size))
    initial = ArrayRecord(dict(job.initial()))
    strategy = _strategy(config)
    kept = Checkpointed(strategy, config.checkpoints, resume=config.resume) if config.checkpoints else None
    done = kept.done if kept and kept.resumed else -1
    if kept and config.resume and not kept.resumed:
        _check_nothing_is_lost(kept, config)
    if press_grid and done < 1:
        initial = _first_of(press_grid, initial, config.first)
    results = Results(config, press_grid.exchanges if press_grid else [], counting.counts, done)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        figures = job.evaluate(arrays.to_torch_state_dict())
        results.add_round(server_round, **figures)
        return MetricRecord({**figures})

    result = (kept or strategy).start(
        grid=press_grid or counting,
        initial_arrays=initial,
        num_rounds=config.num_server_rounds,
        timeout=config.round_timeout,
        evaluate_fn=evaluate,
    )
    if not result.train_metrics_clientapp:
        raise RunError(f"none of the {config.num_server_rounds} rounds had a usable reply; see the log")
    dtypes = Dtypes()
    dtypes.restore("arrays", initial)
    final = dtypes.restore("arrays", result.arrays)
    job.finish(final.to_torch_state_dict(), Path(config.output_dir))
    results.finish(final)


def _check_nothing_is_lost(kept: Checkpointed, config: Config) -> None:
    """Raise ConfigError for a run with rounds that is resumed where none were ever kept: another place was meant.

    Where something is, if no round that is good, a run was stopped as it began: it begins again.
    """
    folder = Path(config.output_dir)
    had = last_round(folder) if config.output_dir else 0
    if had > 0 and sync(kept.checkpoints.where.is_empty()):
        raise ConfigError(
            f"run config: expected the checkpoints of {folder}, which has rounds up to {had}, found nothing in "
            f"{config.checkpoints}; name where they are (--checkpoints takes what has a {folder.name} in it)"
        )


def _first_of(grid: PressGrid, initial: ArrayRecord, first: str) -> ArrayRecord:
    """Return the model that a run starts from, which nodes know already, or are sent as the configuration says."""
    if first == SEED:
        grid.seed(initial)
    return initial if first in (SEED, WHOLE) else grid.define(initial, first)


def _pressed(grid: Grid, config: Config) -> PressGrid:
    return PressGrid(
        grid,
        config.codec,
        down=config.codec_down or None,
        error_feedback=config.error_feedback,
        timeout=config.round_timeout,
    )


def _order_matters(config: Config) -> bool:
    """Tell whether a run can be repeated only if nodes are ordered: some are sampled, or nobody orders replies."""
    return not config.codec or any(0 < share < 1 for share in (config.fraction_train, config.fraction_evaluate))


def _strategy(config: Config) -> Strategy:
    cls = getattr(strategies, config.strategy, None)
    if not (isinstance(cls, type) and issubclass(cls, Strategy)):
        names = [n for n in strategies.__all__ if n not in ("Result", "Strategy")]
        raise ConfigError(f"run config: expected a strategy among {', '.join(names)}, found {config.strategy!r}")
    options: dict[str, float] = {
        "fraction_train": config.fraction_train,
        "fraction_evaluate": config.fraction_evaluate,
        "min_available_nodes": config.min_clients,
    }
    if config.server_learning_rate:
        options[_rate_of(cls)] = config.server_learning_rate
    try:
        return cls(**options)
    except TypeError as error:
        raise ConfigError(f"run config: strategy {config.strategy} needs more than its defaults: {error}") from error


def _rate_of(cls: type[Strategy]) -> str:
    """Return what a strategy calls the server's learning rate."""
    for name in ("eta", "server_learning_rate"):
        if name in inspect.signature(cls).parameters:
            return name
    raise ConfigError(f"run config: expected server-learning-rate=0.0, as {cls.__name__} has none, or FedAdam, FedAvgM")
