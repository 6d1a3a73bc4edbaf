"""Which replies a strategy gets to see: one bad client costs its own reply, and neither the run nor the model.

On stock Flower one reply with another shape, or an extra key, ends the run; a ``(1,)`` broadcasts silently; NaN, or
``num-examples=1e30``, takes the model over. Here each reply is decoded once, an array at a time, and checked by itself
(`Screen.examine`), then against the others of its round (`Screen.odd_ones`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import median
from typing import TypeAlias

import numpy as np
from flwr.app import Array, Message, MetricRecord, RecordDict

from flowerpress.codecs.dtypes import Host, all_finite, dtype_name, is_float
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.federation.metrics import squared_distance
from flowerpress.npy import STYPE, plain_numpy
from flowerpress.records import LatentArray

Shape: TypeAlias = tuple[int, ...]
Structure: TypeAlias = tuple[tuple[str, str, str, Shape], ...]  # record, key, dtype, shape
_FEWEST = 3  # replies of which a median means something


@dataclass(frozen=True)
class Findings:
    """What one reply is like: its arrays, its metrics, and the L2 norm of its update, over all floats."""

    arrays: Structure
    metrics: Structure
    norm: float


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Checks of the replies to train and evaluate messages; a refused reply is an error reply with the reason.

    Whatever is set, the records, keys, order, dtypes and shapes of a reply must be those that were sent; or, if no
    reply has those, as with apps that train a part of the model, those that most replies have. Metric records and keys
    must be those that most replies have. Byte strings (uint8 with one axis) may have any length.

    Parameters
    ----------
    max_weight : float
        The largest weight, such as a number of examples, that a reply may claim; weights must be above 0 and finite.
    weight_key : str
        The metric that the strategy weights replies by.
    max_norm : float or None
        The largest L2 norm of an update, in medians of the norms of the round, if it has three replies or more; None
        for any. The difference to what was sent counts, over all floats.
    finite : bool
        Refuse NaN and infinities in arrays and metrics of train replies.
    min_replies : int
        Valid replies to train messages that a round needs; with fewer it is marked as failed, and the strategy, which
        sees errors only, keeps the model it had.
    keys : str or sequence of str
        Globs of the keys that replies carry, for apps that send back a part of what they were sent.
    """

    max_weight: float = 1e6
    weight_key: str = "num-examples"
    max_norm: float | None = 10.0
    finite: bool = True
    min_replies: int = 1
    keys: str | Sequence[str] = "*"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", (self.keys,) if isinstance(self.keys, str) else tuple(self.keys))
        if not self.max_weight > 0:
            raise ConfigError(f"Screen: expected a max_weight above 0, found {self.max_weight!r}")
        if self.max_norm is not None and not self.max_norm >= 1:
            raise ConfigError(f"Screen: expected a max_norm of 1 or more, or None, found {self.max_norm!r}")
        if self.min_replies < 1:
            raise ConfigError(f"Screen: expected min_replies of 1 or more, found {self.min_replies!r}")

    def examine(self, reply: Message, sent: RecordDict) -> Findings:
        """Check one reply by itself, and say what it is like.

        Raises ChunkError for arrays that cannot be decoded or are not finite, and for weights out of range.
        """
        finite = self.finite and reply.metadata.message_type.startswith("train")
        structure, squares = [], 0.0
        for name, key, array in _items(reply.content):
            x = _decoded(array)
            if x is None:
                structure.append((name, key, array.dtype, tuple(array.shape)))
                continue
            if finite and not all_finite(x):
                raise ChunkError(f"{name} {key!r}: expected finite values, found NaN or infinities")
            structure.append((name, key, *_kind(x)))
            if is_float(dtype_name(x)):
                squares += squared_distance(x, _like(x, sent, name, key))
        metrics = []
        for name, record in sorted(reply.content.metric_records.items()):
            self._check_metrics(record, finite=finite)
            metrics += [(name, key, "", _length(value)) for key, value in sorted(record.items())]
        return Findings(tuple(structure), tuple(metrics), math.sqrt(squares) if squares >= 0 else math.inf)

    def odd_ones(
        self,
        found: Mapping[int, Findings],
        sent: RecordDict | None,
        before: Sequence[Findings] = (),
        norms: Sequence[float] = (),
    ) -> dict[int, str]:
        """Return why some of the replies of a round, by any number, do not fit the others, or what was sent.

        Parameters
        ----------
        found : mapping of int to Findings
            The replies to judge.
        sent : RecordDict or None
            What was sent; None for replies to evaluate messages, of which only the others count.
        before : sequence of Findings
            Valid replies of the same round that are not judged again.
        norms : sequence of float
            Norms of updates of the round before.
        """
        every = [*before, *found.values()]
        arrays = self._expected(sent) if sent is not None else None
        structures = Counter(f.arrays for f in every)
        if arrays is None or (arrays not in structures and self.keys == ("*",)):
            arrays = structures.most_common(1)[0][0] if structures else ()
        weighted = sorted((f.metrics for f in every), key=lambda m: all(key != self.weight_key for _, key, *_ in m))
        metrics = Counter(weighted).most_common(1)[0][0] if weighted else ()
        odd = {i: _difference(arrays, f.arrays) or _difference(metrics, f.metrics) for i, f in found.items()}
        odd = {i: difference for i, difference in odd.items() if difference}
        updates = {i: f.norm for i, f in found.items() if i not in odd}
        return odd | self._too_large(updates, [*(f.norm for f in before), *norms])

    def _too_large(self, norms: Mapping[int, float], others: Sequence[float]) -> dict[int, str]:
        """Return which updates are too large beside the median of all, and why."""
        every = [*norms.values(), *others]
        if self.max_norm is None or len(every) < _FEWEST or not median(every):
            return {}
        most = self.max_norm * median(every)
        reason = f"its update is too large: expected an L2 norm of at most {most:.4g}, {self.max_norm:g} medians, found"
        return {i: f"{reason} {norm:.4g}" for i, norm in norms.items() if not norm <= most}

    def _expected(self, sent: RecordDict) -> Structure:
        """Return the structure of a reply that carries what was sent, as far as the app declared its keys."""
        found = []
        for name, key, array in _items(sent):
            if any(fnmatchcase(key, glob) for glob in self.keys):
                kind = _stock(array.dtype), tuple(array.shape)
                found.append((name, key, *_any_length(*kind)))
        return tuple(found)

    def _check_metrics(self, record: MetricRecord, *, finite: bool) -> None:
        for key, value in record.items():
            if finite and not np.isfinite(value).all():
                raise ChunkError(f"metric {key!r}: expected finite values, found {value!r}")
            if key == self.weight_key and (isinstance(value, list) or not 0 < value <= self.max_weight):
                raise ChunkError(f"weight {key!r}: expected above 0, up to {self.max_weight:g}, found {value!r}")


def _items(content: RecordDict) -> Iterator[tuple[str, str, Array]]:
    for name, record in sorted(content.array_records.items()):
        for key, array in record.items():
            yield name, key, array


def _decoded(array: Array) -> Host | None:
    """Return the values of an array; None for one that is not Flower's own, and that nobody here can read."""
    if isinstance(array, LatentArray):
        return array.decode()
    return plain_numpy(array) if array.stype == STYPE else None


def _kind(x: Host) -> tuple[str, Shape]:
    return _any_length(_stock(dtype_name(x)), x.shape)


def _any_length(dtype: str, shape: Shape) -> tuple[str, Shape]:
    return (dtype, (-1,)) if dtype == "uint8" and len(shape) == 1 else (dtype, shape)


def _stock(dtype: str) -> str:
    """Return the dtype in which stock Flower carries it: nodes without the mod get, and return, that one."""
    return "float32" if dtype == "bfloat16" or dtype.startswith("float8") else dtype


def _like(x: Host, sent: RecordDict, name: str, key: str) -> Host:
    """Return what was sent in the place of ``x``; zero if there was nothing like it."""
    record = sent.array_records.get(name)
    y = _decoded(record[key]) if record is not None and key in record else None
    return y if y is not None and y.shape == x.shape else np.zeros((), np.float32)


def _length(value: float | Sequence[float]) -> Shape:
    return (len(value),) if isinstance(value, Sequence) else ()


def _difference(expected: Structure, found: Structure) -> str:
    """Name the first difference between two structures; empty if there is none."""
    if expected == found:
        return ""
    here, there = ({(record, key): (dtype, shape) for record, key, dtype, shape in s} for s in (found, expected))
    for name in {**there, **here}:
        if here.get(name) != there.get(name):
            record, key = name
            return f"{record} {key!r}: expected {_text(there.get(name))}, found {_text(here.get(name))}"
    return "its keys are not in the order in which they were sent"


def _text(kind: tuple[str, Shape] | None) -> str:
    return "none" if kind is None else f"{kind[0] or 'a number'}{list(kind[1]) if kind[1] or kind[0] else ''}"
