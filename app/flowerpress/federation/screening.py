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
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from flowerpress.codecs.dtypes import Host, all_finite, dtype_name, is_float
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.federation.metrics import arrays_of, raw_bytes, squared_distance
from flowerpress.federation.protocol import kind_of, records_of
from flowerpress.npy import STYPE, plain_numpy
from flowerpress.records import LatentArray

Shape: TypeAlias = tuple[int, ...]
Structure: TypeAlias = tuple[tuple[str, str, str, Shape], ...]  # record, key, dtype, shape
Question: TypeAlias = tuple[str, Structure]  # type of message, arrays that were asked for
_FEWEST = 3  # replies of which a median means something


@dataclass(frozen=True)
class Findings:
    """What one reply is like: its arrays, its metrics, and the L2 norm of its update, over all floats.

    Replies are compared with those to the same question.
    """

    arrays: Structure
    metrics: Structure
    norm: float
    question: Question


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Checks of the replies to train and evaluate messages; a refused reply is an error reply with the reason.

    Whatever is set, the records, keys, order, dtypes and shapes of a reply must be those that were sent; or, if no
    reply has those, as with apps that train a part of the model, those that most replies have in the first round, and
    that they had in the round before in later ones. Metric records and keys must be those that most replies have. In
    records of nothing but byte strings (uint8 with one axis), these may have any length.

    Parameters
    ----------
    max_weight : float
        The largest weight, such as a number of examples, that a reply may claim; weights must be above 0.
    weight_key : str
        The metric that the strategy weights replies by.
    max_norm : float or None
        The largest L2 norm of an update, in medians of the norms of the round, or of an earlier one if that was larger,
        if it has three replies or more; None for any. The difference to what was sent counts, over all floats.
    finite : bool
        Refuse NaN and infinities in arrays and metrics of train replies.
    min_replies : int
        Valid replies to train messages that a round needs; with fewer it is marked as failed, and the strategy, which
        sees errors only, keeps the model it had.
    keys : str or sequence of str
        Globs of the keys that replies carry, for apps that send back a part of what they were sent.
    max_bytes : int
        The most bytes that the compressed arrays of a reply may take when they are decoded, or four times what was
        sent, if that is more: a few bytes can stand for any number of zeros.
    same_metrics : bool
        Refuse replies whose metric records, keys or lengths of lists are not those that most have, with which Flower's
        strategies would end the run. Switch it off for functions of your own that put different metrics together; of
        all metrics only the weight is checked then.
    """

    max_weight: float = 1e6
    weight_key: str = "num-examples"
    max_norm: float | None = 10.0
    finite: bool = True
    min_replies: int = 1
    keys: str | Sequence[str] = "*"
    max_bytes: int = 1 << 30
    same_metrics: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", (self.keys,) if isinstance(self.keys, str) else tuple(self.keys))
        if not 0 < self.max_weight < math.inf:
            raise ConfigError(f"Screen: expected a finite max_weight above 0, found {self.max_weight!r}")
        if self.max_norm is not None and not self.max_norm >= 1:
            raise ConfigError(f"Screen: expected a max_norm of 1 or more, or None, found {self.max_norm!r}")
        if self.min_replies < 1:
            raise ConfigError(f"Screen: expected min_replies of 1 or more, found {self.min_replies!r}")

    def examine(self, reply: Message, sent: RecordDict) -> Findings:
        """Check one reply by itself, and say what it is like.

        Raises ChunkError for arrays that cannot be decoded, are not finite or too large, and for weights out of range.
        """
        compressed = (array for array in arrays_of(reply.content) if isinstance(array, LatentArray))
        nbytes, most = sum(array.spec.nbytes for array in compressed), max(self.max_bytes, 4 * raw_bytes(sent))
        if nbytes > most:
            raise ChunkError(f"expected arrays of {most} bytes at most, found {nbytes}; see Screen(max_bytes=…)")
        kind = kind_of(reply.metadata.message_type)
        finite = self.finite and kind == "train"
        structure, squares = [], 0.0
        for name, key, array in _items(reply.content):
            x = _decoded(array)
            if x is None:
                structure.append((name, key, *_declared(array)))
                continue
            if finite and not all_finite(x):
                raise ChunkError(f"{name} {key!r}: expected finite values, found NaN or infinities")
            structure.append((name, key, _stock(dtype_name(x)), x.shape))
            if is_float(dtype_name(x)):
                squares += squared_distance(x, _like(x, sent, name, key))
        for record in records_of(reply.content, MetricRecord).values() if kind in ("train", "evaluate") else ():
            self._check_metrics(record, finite=finite)
        norm = math.sqrt(squares) if squares >= 0 else math.inf
        question = reply.metadata.message_type, self._expected(sent)
        return Findings(_open_ended(structure), self._compared(metrics_of(reply.content)), norm, question)

    def regular(self, found: Findings, before: Sequence[Findings]) -> bool:
        """Tell whether a reply is like those before it; of the first, if it has a weight and what was asked for."""
        if before:
            return (found.arrays, found.metrics) == (before[0].arrays, before[0].metrics)
        return self._weighted(found) and found.arrays == found.question[1]

    def odd_ones(
        self,
        found: Mapping[int, Findings],
        before: Sequence[Findings] = (),
        norms: Sequence[float] = (),
        usual: Findings | None = None,
        largest: float = 0.0,
    ) -> dict[int, str]:
        """Return why some of the replies to a question, by any number, do not fit the others, or what was asked for.

        Of replies to evaluate messages only the others count; those to queries are not compared.

        Parameters
        ----------
        found : mapping of int to Findings
            The replies to judge, all to the same question.
        before : sequence of Findings
            Valid replies to it that are not judged again.
        norms : sequence of float
            Norms of updates of the round before.
        usual : Findings, optional
            What a valid reply of the round before was like: a single bad one is no majority.
        largest : float
            The largest median of norms of the rounds before: updates shrink as nodes converge, some sooner than others.
        """
        every = [*before, *found.values()]
        message_type, asked = next((f.question for f in every), ("", ()))
        if (kind := kind_of(message_type)) not in ("train", "evaluate"):
            return {}
        expected, norms = (asked, norms) if kind == "train" else (None, ())
        arrays, metrics = self._right_arrays(every, expected, usual), self._right_metrics(every, usual)
        odd = {i: _difference(arrays, f.arrays) or _difference(metrics, f.metrics) for i, f in found.items()}
        odd = {i: difference for i, difference in odd.items() if difference}
        updates = {i: f.norm for i, f in found.items() if i not in odd}
        return odd | self._too_large(updates, [*(f.norm for f in before), *norms], largest)

    def _right_arrays(self, every: Sequence[Findings], asked: Structure | None, usual: Findings | None) -> Structure:
        """Return what was asked for, if a reply has it or keys are declared; else what was before, or most have."""
        votes = Counter(f.arrays for f in every)
        if asked is not None and (asked in votes or self.keys != ("*",)):
            return asked
        if asked is not None and usual:
            return usual.arrays
        return votes.most_common(1)[0][0] if votes else ()

    def _right_metrics(self, every: Sequence[Findings], usual: Findings | None) -> Structure:
        """Return the metrics that most replies have; if none has a weight, and there was one before, those before."""
        if usual and self._weighted(usual) and not any(map(self._weighted, every)):
            return usual.metrics
        votes = Counter(f.metrics for f in sorted(every, key=self._weighted, reverse=True))  # a weight breaks ties
        return votes.most_common(1)[0][0] if votes else ()

    def _too_large(self, norms: Mapping[int, float], others: Sequence[float], largest: float) -> dict[int, str]:
        """Return which updates are too large beside the median of all, or of an earlier round, and why."""
        every = [*norms.values(), *others]
        if self.max_norm is None or len(every) < _FEWEST or not (usual := max(median(every), largest)):
            return {}
        most = self.max_norm * usual
        reason = f"its update is too large: expected an L2 norm of at most {most:.4g}, {self.max_norm:g} medians, found"
        return {i: f"{reason} {norm:.4g}" for i, norm in norms.items() if not norm <= most}

    def _expected(self, sent: RecordDict) -> Structure:
        """Return the structure of a reply that carries what was sent, as far as the app declared its keys."""
        expected = [(name, key, *_declared(array)) for name, key, array in _items(sent)]
        return _open_ended([kind for kind in expected if any(fnmatchcase(kind[1], glob) for glob in self.keys)])

    def _compared(self, metrics: Structure) -> Structure:
        """Return the metrics that have to be the same in all replies."""
        return metrics if self.same_metrics else tuple(m for m in metrics if m[1] == self.weight_key)

    def _weighted(self, found: Findings) -> bool:
        return [key for _, key, *_ in found.metrics].count(self.weight_key) == 1

    def _check_metrics(self, record: MetricRecord, *, finite: bool) -> None:
        for key, value in record.items():
            if finite and not np.isfinite(value).all():
                raise ChunkError(f"metric {key!r}: expected finite values, found {value!r}")
            if key == self.weight_key and (isinstance(value, list) or not 0 < value <= self.max_weight):
                raise ChunkError(f"weight {key!r}: expected above 0, up to {self.max_weight:g}, found {value!r}")


def metrics_of(content: RecordDict) -> Structure:
    """Return which metrics a reply carries: numbers, and lists by their length."""
    records = sorted(records_of(content, MetricRecord).items())
    return tuple((name, key, "", _length(value)) for name, record in records for key, value in sorted(record.items()))


def _items(content: RecordDict) -> Iterator[tuple[str, str, Array]]:
    for name, record in sorted(records_of(content, ArrayRecord).items()):
        for key, array in record.items():
            yield name, key, array


def _decoded(array: Array) -> Host | None:
    """Return the values of an array; None for one that is not Flower's own, and that nobody here can read."""
    if isinstance(array, LatentArray):
        return array.decode()
    return plain_numpy(array) if array.stype == STYPE else None


def _declared(array: Array) -> tuple[str, Shape]:
    """Return dtype and shape of an array as it says itself; and its stype, where only that says how to read it."""
    if array.stype == STYPE:
        return _stock(array.dtype), tuple(array.shape)
    return f"{array.dtype} as {array.stype!r} ", tuple(array.shape)


def _open_ended(found: Sequence[tuple[str, str, str, Shape]]) -> Structure:
    """Leave the lengths of byte strings open in records of nothing else: trees grow, buffers of a model do not."""
    fixed = {record for record, _, dtype, shape in found if dtype != "uint8" or len(shape) != 1}
    return tuple((record, key, dtype, shape if record in fixed else (-1,)) for record, key, dtype, shape in found)


def _stock(dtype: str) -> str:
    """Return the dtype in which stock Flower carries it: nodes without the mod get, and return, that one."""
    return "float32" if dtype == "bfloat16" or dtype.startswith("float8") else dtype


def _like(x: Host, sent: RecordDict, name: str, key: str) -> Host:
    """Return what was sent in the place of ``x``; zero if there was nothing like it."""
    record = records_of(sent, ArrayRecord).get(name)
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
