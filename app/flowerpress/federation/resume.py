"""Runs that go on where they were: Flower's strategies begin at round 1, whatever happened before. ::

    Checkpointed(strategy, "checkpoints", resume=True).start(grid=grid, initial_arrays=arrays, num_rounds=40)

After each round the model, the state of the strategy, that of Python's and numpy's random numbers, the metrics so far,
and the reference that most nodes hold are written to `Checkpoints`. A resumed run gets all of it back, and counts on.
Nodes that still have the reference are sent a difference to it, the others the model.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flowerpress.arrays.store import Checkpoint, Checkpoints
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.errors import ConfigError, RunError
from flowerpress.federation.grid import PressGrid
from flowerpress.records import LatentArray, LatentRecord
from flowerpress.wire import Values, values_of

if TYPE_CHECKING:
    from flowerpress.arrays.places import Where

Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]
_STRATEGY, _REFERENCE = "strategy", "reference"  # groups beside the model
_METRICS = ("train_metrics_clientapp", "evaluate_metrics_clientapp", "evaluate_metrics_serverapp")
_ROUNDS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate")
_PLAIN, _NUMPY = (bool, int, float, str, type(None)), (np.ndarray, np.generic)
_log = logging.getLogger("flwr")


class Checkpointed:
    """A strategy whose rounds are kept, and that goes on behind the last one that was.

    Parameters
    ----------
    strategy : Strategy
        Any of Flower's, or one of your own, wrapped ones included. Its state is what its attributes are that changed
        since it was made: numbers, text, bytes, dicts of these, ndarrays, lists and dicts of ndarrays, ArrayRecords.
    checkpoints : Checkpoints, str, Path, zarr Store or StorePath
        Where the rounds are.
    resume : bool
        Whether to go on behind the last good round, if there is one.

    Attributes
    ----------
    done : int
        The round behind which it goes on; 0 for a run that begins.
    resumed : bool
        Whether there was a round to go on behind, which may be 0.

    Raises
    ------
    ConfigError
        If there are rounds, and ``resume`` is not set.
    ChunkError
        If there are rounds, and none of them is good.
    """

    def __init__(self, strategy: Strategy, checkpoints: "Checkpoints | Where", *, resume: bool = False) -> None:
        self.strategy = strategy
        self.checkpoints = checkpoints if isinstance(checkpoints, Checkpoints) else Checkpoints(checkpoints)
        if not resume and self.checkpoints.rounds():
            raise ConfigError(f"{self.checkpoints.where} has rounds of another run; resume it, or choose another place")
        self._fresh = dict(_attributes(strategy))
        self._found = self.checkpoints.load() if resume else None
        self.resumed = self._found is not None
        self.done = self._found.round if self._found else 0

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Evaluate | None = None,
    ) -> Result:
        """Run the rounds up to ``num_rounds`` that are not done yet; arguments and result are those of the strategy.

        ``initial_arrays`` is what a run begins with; one that is resumed begins with its own.
        """
        history = _History()
        if isinstance(grid, PressGrid):
            grid.keep_dtypes(initial_arrays, getattr(self.strategy, "arrayrecord_key", "arrays"))
        if self._found:
            initial_arrays = self._restore(self._found, grid, history)
        left = max(0, num_rounds - self.done)
        if not left:
            return history.result(initial_arrays)

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            number = server_round + self.done
            if self._found and not server_round:
                return None  # it was evaluated before
            metrics = evaluate_fn(number, arrays) if evaluate_fn else None
            history.add("evaluate_metrics_serverapp", number, metrics)
            self._save(number, arrays, grid, history)
            return metrics

        with _counting_on(self.strategy, self.done, history):
            result = self.strategy.start(grid, initial_arrays, left, timeout, train_config, evaluate_config, evaluate)
        return history.result(result.arrays or initial_arrays)

    def _save(self, number: int, arrays: ArrayRecord, grid: Grid, history: "_History") -> None:
        state, described = _state_of(self.strategy, self._fresh)
        groups: dict[str, Mapping[str, ArrayLike]] = {_STRATEGY: state}
        if isinstance(grid, PressGrid) and (reference := grid.reference()):
            groups[_REFERENCE] = reference
        notes = {"strategy": described, "random": _random_state(), "metrics": history.metrics}
        try:
            self.checkpoints.save(number, Values(arrays), groups=groups, notes=notes)
        except RunError as error:
            _log.error("flowerpress: %s; the run goes on, and what was written before is there", error)

    def _restore(self, found: Checkpoint, grid: Grid, history: "_History") -> ArrayRecord:
        _log.info("flowerpress: the run goes on behind round %d of %s", found.round, self.checkpoints.where)
        if _STRATEGY in found.groups:  # it is ours; of others there is the model
            _put_state(self.strategy, found.notes["strategy"], found.groups[_STRATEGY])
            _put_random_state(found.notes["random"])
            history.metrics = {name: dict(found.notes["metrics"][name]) for name in _METRICS}
        if isinstance(grid, PressGrid) and _REFERENCE in found.groups:
            grid.seed(LatentRecord.of(found.groups[_REFERENCE]))
        return LatentRecord.of(found.model)


class _History:
    """The metrics of all rounds, by kind and number, as JSON has them."""

    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, Any]] = {name: {} for name in _METRICS}

    def add(self, kind: str, number: int, metrics: MetricRecord | None) -> None:
        if metrics is not None:
            self.metrics[kind][str(number)] = dict(metrics)

    def result(self, arrays: ArrayRecord) -> Result:
        result = Result(arrays=arrays)
        for name in _METRICS:
            setattr(result, name, {int(number): MetricRecord(m) for number, m in self.metrics[name].items()})
        return result


@contextmanager
def _counting_on(strategy: Strategy, done: int, history: _History) -> Iterator[None]:
    """Add the rounds that are done to the numbers that a strategy is given, and note the metrics that it makes."""

    def counting(name: str) -> Callable[..., Any]:
        method = getattr(strategy, name)

        @wraps(method)
        def call(server_round: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            found = method(server_round + done, *args, **kwargs)
            if name == "aggregate_train":
                history.add(_METRICS[0], server_round + done, found[1])
            elif name == "aggregate_evaluate":
                history.add(_METRICS[1], server_round + done, found)
            return found

        return call

    vars(strategy).update({name: counting(name) for name in _ROUNDS})
    try:
        yield
    finally:
        for name in _ROUNDS:
            del vars(strategy)[name]


def _attributes(strategy: Strategy, path: str = "") -> Iterator[tuple[str, Any]]:
    """Return the attributes of a strategy, and of those that it wraps, by their paths."""
    for name, value in vars(strategy).items():
        if name in _ROUNDS:
            continue
        if isinstance(value, Strategy):
            yield from _attributes(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _state_of(strategy: Strategy, fresh: Mapping[str, Any]) -> tuple[dict[str, ArrayLike], dict[str, Any]]:
    """Return the arrays that a strategy has, and what they, and the other attributes that changed, are."""
    arrays, described = dict[str, ArrayLike](), dict[str, Any]()
    for path, value in _attributes(strategy):
        if isinstance(value, (*_PLAIN, np.generic)):
            if path not in fresh or value != fresh[path]:
                described[path] = {"value": value.item() if isinstance(value, np.generic) else value}
        elif isinstance(value, dict) and all(isinstance(x, _PLAIN) for item in value.items() for x in item):
            described[path] = {"items": list(map(list, value.items()))}
        elif found := _arrays_in(value):
            kind, named = found
            described[path] = {kind: list(named)}
            arrays |= {f"{path}/{key}": x for key, x in named.items()}
    return arrays, described


def _arrays_in(value: Any) -> tuple[str, dict[str, ArrayLike]] | None:  # noqa: ANN401
    """Return the kind of a value that is made of arrays, and these by name; None for any other."""
    if isinstance(value, ArrayRecord):
        return "record", dict(values_of(value))
    if isinstance(value, np.ndarray):
        return "array", {"": value}
    if isinstance(value, bytes):
        return "bytes", {"": np.frombuffer(value, np.uint8)}
    if isinstance(value, list) and value and all(isinstance(x, _NUMPY) for x in value):
        return "list", {str(i): np.asarray(x) for i, x in enumerate(value)}
    if (
        isinstance(value, dict)
        and value
        and all(isinstance(k, str) and isinstance(x, _NUMPY) for k, x in value.items())
    ):
        return "dict", {k: np.asarray(x) for k, x in value.items()}
    return None


def _put_state(strategy: Strategy, described: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    for path, what in described.items():
        *outer, name = path.split(".")
        owner: Any = strategy
        for step in outer:
            owner = getattr(owner, step)
        ((kind, keys),) = what.items()
        if kind in ("value", "items"):
            setattr(owner, name, keys if kind == "value" else dict(keys))
        else:
            setattr(owner, name, _made(kind, {k: arrays[f"{path}/{k}"] for k in keys}))


def _made(kind: str, arrays: dict[str, Any]) -> Any:  # noqa: ANN401
    if kind == "record":
        record = ArrayRecord()
        for key, x in arrays.items():
            record[key] = LatentArray(x, codec="raw")  # bfloat16, too
        return record
    if kind in ("array", "bytes"):
        return arrays[""] if kind == "array" else arrays[""].tobytes()
    return arrays if kind == "dict" else list(arrays.values())


def _random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": [version, list(words), gauss], "numpy": [name, np.asarray(keys).tolist(), *rest]}


def _put_random_state(state: Mapping[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
