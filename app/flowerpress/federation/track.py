"""What a run costs, live, in TensorBoard, Weights & Biases or MLflow: a callback for PressGrid's ``log``.

::

    PressGrid(grid, log=track("tensorboard", folder="/runs/one"))
    PressGrid(grid, log=Tracker(write))                            for any other tool

Each round adds a point to ``train/up-bytes``, ``train/ratio``, ``evaluate/seconds`` and so on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module  # the tools are optional, slow to import, and typed or not as they please
from pathlib import Path
from typing import TypeAlias

from flowerpress.errors import ConfigError
from flowerpress.federation.metrics import Exchange

Write: TypeAlias = Callable[[str, float, int], None]  # the name of a figure, its value, the round


@dataclass(frozen=True)
class Tracker:
    """Hands the figures of each exchange to ``write``, one by one.

    Parameters
    ----------
    write : Callable[[str, float, int], None]
        Takes the name of a figure, its value and the round.
    """

    write: Write

    def __call__(self, exchange: Exchange) -> None:
        """Write what an exchange cost."""
        for name, value in figures(exchange).items():
            self.write(name, value, exchange.server_round)


def figures(exchange: Exchange) -> dict[str, float]:
    """Return an exchange's sums over its nodes, named after the type of its messages.

    >>> [name for name in figures(Exchange("train", 3)) if "down" in name]
    ['train/down-bytes', 'train/down-raw-bytes']
    """
    row = {name: value for name, value in exchange.row().items() if isinstance(value, int | float)}
    del row["round"]
    return {f"{exchange.message_type}/{name}": float(value) for name, value in row.items()}


def track(tool: str, *, folder: str | Path = "", project: str = "", uri: str = "") -> Tracker:
    """Start a run in a tool; what else it should know, the tool reads from its own environment variables.

    Parameters
    ----------
    tool : str
        ``"tensorboard"``, ``"wandb"`` or ``"mlflow"``; a run of the latter two that is active already is joined.
    folder : str or Path
        For TensorBoard: where the event files go. Make it absolute: a server app runs in the folder of its SuperLink.
    project : str
        For Weights & Biases: the name of the project. ``WANDB_MODE=offline`` keeps the run in ``WANDB_DIR``.
    uri : str
        For MLflow: the tracking server or store, such as ``"sqlite:////runs/mlflow.db"``.

    Returns
    -------
    Tracker
        What PressGrid takes as ``log``.

    Raises
    ------
    ConfigError
        For an unknown tool, one that is not installed, or any but the one option that it takes.
    """
    if tool not in _TOOLS:
        raise ConfigError(f"track: expected a tool among {', '.join(_TOOLS)}, found {tool!r}")
    option, start = _TOOLS[tool]
    given = {name: where for name, where in (("folder", str(folder)), ("project", project), ("uri", uri)) if where}
    if list(given) != [option]:
        raise ConfigError(f"track: {tool} takes {option}=… and nothing else, found {given or 'nothing'}")
    try:
        return Tracker(start(given[option]))
    except ImportError as error:
        raise ConfigError(f"track: {tool} is not installed; pip install 'flowerpress[track]' ({error})") from error


def _tensorboard(folder: str) -> Write:
    writer = import_module("torch.utils.tensorboard").SummaryWriter(folder)

    def write(name: str, value: float, step: int) -> None:
        writer.add_scalar(name, value, step)
        writer.flush()  # now: nobody tells a callback that its run is over

    return write


def _wandb(project: str) -> Write:
    wandb = import_module("wandb")
    run = wandb.run or wandb.init(project=project)
    run.define_metric("*", step_metric="round")  # W&B's own step may not go back; rounds do, if a strategy runs twice
    return lambda name, value, step: run.log({name: value, "round": step})


def _mlflow(uri: str) -> Write:
    mlflow = import_module("mlflow")
    mlflow.set_tracking_uri(uri)
    run = mlflow.active_run() or mlflow.start_run()
    return lambda name, value, step: mlflow.log_metric(name, value, step=step, run_id=run.info.run_id)


_TOOLS: dict[str, tuple[str, Callable[[str], Write]]] = {
    "tensorboard": ("folder", _tensorboard),
    "wandb": ("project", _wandb),
    "mlflow": ("uri", _mlflow),
}
