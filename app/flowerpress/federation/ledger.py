"""The server's end of the references: which node holds what, and what to send it so that it holds the new model. ::

    node 1 ┐                                 ┌► model ── nothing but the digest, if that is what they hold
    node 2 ┴─ hold A ─► one encode: model - A┤
    node 3 ─── holds B ─► one encode: model - B
    node 4 ─── holds nothing ─► whole, or the first model and the difference to it; encoded once for all such nodes

What a lossy codec drops is in the next difference by itself, because that is taken to what the nodes decoded: there is
no residual on this side. A node counts as holding a reference when it has said so in a reply.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.content import digest_of
from flowerpress.codecs.base import Spec
from flowerpress.codecs.dtypes import ArrayLike, dtype_name, is_float
from flowerpress.codecs.policy import as_policy, lossless_for
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.federation.metrics import distortion
from flowerpress.federation.protocol import Step
from flowerpress.federation.store import SEED, Store
from flowerpress.records import CodecLike, LatentRecord
from flowerpress.wire import FIRST, KEY, beside, bundle_bytes, opened, press, unpress, values_of

MOST_ENCODES = 64  # of differences to one model; the nodes beyond them get it whole
_ORDER = "intdelta | zstd"  # of arrays that a node holds in another order: nothing but names is left


@dataclass(frozen=True)
class Sending:
    """A record on its way to some nodes: its form on the wire, and where it leads them.

    Without a step it is coded without references and leaves none. ``model`` is what was meant if the nodes decode
    something else.
    """

    wire: ArrayRecord
    step: Step | None = None
    reference: Bundle | None = None
    model: Mapping[str, ArrayLike] | None = None
    distortion: float = 0.0

    @property
    def start(self) -> str:
        """Digest of what nodes must hold to read it; "" for nothing, or if they are sent that as well."""
        return self.step.start if self.step and FIRST not in self.wire else ""

    @property
    def to(self) -> str:
        """Digest of what nodes hold then; "" for nothing."""
        return self.step.to if self.step else ""


class Ledger:
    """What each node holds of each record, as far as the server knows.

    Parameters
    ----------
    codec : str, Pipeline, Policy or callable
        What codes the records.
    store : Store
        Where the references are.
    run : str
        Who holds them there; they are let go when the ledger is.
    """

    def __init__(self, codec: CodecLike, store: Store, run: str) -> None:
        self._codec, self._store, self._run = codec, store, run
        self._held: dict[tuple[int, str], str] = {}
        self._seeds: dict[str, dict[str, Spec]] = {}
        self._first: dict[str, tuple[ArrayRecord, Bundle]] = {}  # by digest: models that were defined, as they are sent
        self._models: dict[str, str] = {}  # digest of what nodes decoded: digest of the model it was coded from
        self._wholes: dict[tuple[str, str], Sending] = {}  # by name and digest; while messages are on their way
        weakref.finalize(self, store.keep, run, ())

    def held(self, node: int, name: str) -> str:
        """Return the digest of what a node holds under this name, or ""."""
        return self._held.get((node, name), "")

    def most_held(self) -> Bundle | None:
        """Return the reference that most nodes hold; None if most hold none."""
        ((digest, _),) = Counter(self._held.values()).most_common(1) or [("", 0)]
        return self._store.get(digest) if digest else None

    def holds(self, node: int, name: str, digest: str) -> None:
        """Note what a node says it holds; "" for nothing."""
        self._held[node, name] = digest

    def seed(self, record: ArrayRecord) -> str:
        """Expect nodes of which nothing is known to hold this record; return its digest."""
        values = values_of(record)
        digest = digest_of(values)
        self._seeds[digest] = {key: Spec.of(x, key) for key, x in values.items()}
        self._store.add(digest, values, self._run)
        return digest

    def define(self, record: ArrayRecord, codec: CodecLike) -> LatentRecord:
        """Send nodes that hold nothing this record, coded like that, and differences to it; return what they decode.

        Raises ConfigError for a record without arrays, or a codec that does not decode to the same bits everywhere.
        """
        wire = press(record, _for_positive(record, codec))
        if (data := bundle_bytes(wire)) is None:
            raise ConfigError("PressGrid.define: expected a record with arrays, found none")
        arrays = _reproducible(Bundle(data)).read_all()
        digest = digest_of(arrays)
        self._first[digest] = wire, self._store.add(digest, arrays, self._run)
        return opened(wire, self._first[digest][1], "raw")

    def settle(self) -> None:
        """Let go of references that no node holds; nothing is on its way any longer."""
        self._wholes.clear()
        digests = {*self._held.values(), *self._seeds, *self._first}
        self._models = {digest: model for digest, model in self._models.items() if digest in digests}
        self._store.keep(self._run, digests)

    def send(self, name: str, records: Sequence[tuple[int, ArrayRecord]]) -> list[Sending]:
        """Return how nodes are to be sent their records, which have one name and belong to one push.

        Raises ConfigError if the codec does not decode to the same bits everywhere.
        """
        distinct = {id(record): record for _, record in records}
        values = {i: values_of(record) for i, record in distinct.items()}
        digests = {i: digest_of(x) for i, x in values.items()}
        others = len(distinct) > 1 and any(map(beside, distinct.values()))  # which digests do not tell apart
        if len(set(digests.values())) > 1 or others or not all(values.values()):
            plain = {i: Sending(press(record, self._codec)) for i, record in distinct.items()}
            return [plain[id(record)] for _, record in records]
        ((i, record), *_) = distinct.items()
        likely = self._likely(values[i], digests[i])
        groups = self._groups(name, [node for node, _ in records], likely)
        sendings = self._sendings(name, record, digests[i], set(groups.values()))
        return [sendings[groups[node]] for node, _ in records]

    def _sendings(self, name: str, record: ArrayRecord, digest: str, starts: Iterable[str]) -> dict[str, Sending]:
        """Return what leads from each of several references to the record with this digest.

        If two encodings, against two references, come out alike, the codec takes no notice of them, and the first is
        for everybody.
        """
        sendings = dict[str, Sending]()  # by what they are for
        encoded = dict[str, Sending]()  # by what they were coded against
        for start in sorted(starts):
            one, other, *_ = [*encoded.values(), None, None]
            if one and other and _same_for_all(one, other) and not self._leads(start, digest):
                sendings[start] = replace(one, step=Step("", one.to))
                continue
            sendings[start] = sending = self._sending(name, record, digest, start)
            if FIRST not in sending.wire and sending.start != sending.to:
                encoded.setdefault(sending.start, sending)
        return sendings

    def _leads(self, start: str, digest: str) -> bool:
        """Tell whether nodes that hold ``start`` need nothing to have the record with this digest, as it was sent."""
        return self._models.get(start, start) == digest

    def _groups(self, name: str, nodes: Iterable[int], likely: str) -> dict[int, str]:
        """Return what each node is known to hold; those in the smallest groups, over the limit, nothing."""
        held = {node: self._held.get((node, name), likely) for node in nodes}
        most = {start for start, _ in Counter(held.values()).most_common(MOST_ENCODES)}
        return {node: start if start in most else "" for node, start in held.items()}

    def _likely(self, values: Mapping[str, ArrayLike], digest: str) -> str:
        """Return the seed that nodes of which nothing is known may hold: the model itself, or the last one like it."""
        specs = {key: Spec.of(x, key) for key, x in values.items()}
        stored = {}
        for seed in reversed(list(self._store)):  # the one used last is the last
            if seed not in self._seeds and SEED in self._store.holders(seed):
                found = self._store.get(seed)
                stored[seed] = {key: found.spec(key) for key in found} if found else {}
        self._seeds = {**stored, **self._seeds}
        if digest in self._seeds:
            return digest
        return next((seed for seed in reversed(self._seeds) if self._seeds[seed] == specs), "")

    def _sending(self, name: str, record: ArrayRecord, digest: str, start: str) -> Sending:
        """Return what leads nodes that hold ``start`` to the record with this digest."""
        base = self._store.get(start) if start else None
        if base is None:
            if (name, digest) not in self._wholes:
                self._wholes[name, digest] = self._whole(record, digest)
            return self._wholes[name, digest]
        if self._leads(start, digest):
            return Sending(beside(record), Step(start, start), base, None if start == digest else values_of(record))
        return self._encoded(record, digest, start, base)

    def _whole(self, record: ArrayRecord, digest: str) -> Sending:
        """Return what leads nodes that hold nothing to a record: from the first model like it, if one was defined."""
        specs = {key: Spec.of(x, key) for key, x in values_of(record).items()}
        alike = [first for first, (_, bundle) in self._first.items() if {k: bundle.spec(k) for k in bundle} == specs]
        if not alike:
            return self._encoded(record, digest, "", None)
        start = digest if digest in alike else alike[-1]
        first, bundle = self._first[start]
        sending = Sending(beside(record), Step(start, start), bundle)
        if start != digest:
            sending = self._encoded(record, digest, start, bundle)
            if _needs_no_reference(sending):
                return replace(sending, step=Step("", sending.to))
        sending.wire[FIRST] = first[KEY]
        return sending

    def _encoded(self, record: ArrayRecord, digest: str, start: str, base: Bundle | None) -> Sending:
        """Encode a record, and store what nodes will decode it to."""
        model = values_of(record)
        wire = press(record, _ORDER if _reordered(base, model, digest) else self._codec, bases=base)
        bundle = _reproducible(Bundle(bundle_bytes(wire) or b"", bases=base))
        if all(map(bundle.exact, bundle)):
            return Sending(wire, Step(start, digest), self._store.add(digest, model, self._run))
        arrays = bundle.read_all()
        to = digest_of(arrays)
        self._models[to] = digest
        error = distortion(model, arrays, bundle.bases)
        return Sending(wire, Step(start, to), self._store.add(to, arrays, self._run), model, error)


def _same_for_all(one: Sending, other: Sending) -> bool:
    """Tell whether two encodings show that the codec takes no notice of references."""
    return one.wire == other.wire and _needs_no_reference(one)


def _needs_no_reference(sending: Sending) -> bool:
    """Tell whether a record can be decoded without what it was coded against."""
    try:
        return not Bundle(bundle_bytes(sending.wire) or b"").layout.differences()
    except ChunkError:  # it names its arrays by the references'
        return False


def _reproducible(bundle: Bundle) -> Bundle:
    """Return a bundle that decodes to the same bits everywhere; ConfigError if it may not."""
    if strange := [pipeline for pipeline in bundle.layout.pipelines if not pipeline.reproducible]:
        raise ConfigError(f"PressGrid: {strange[0]} may decode to other bits on a client; send it with another")
    return bundle


def _for_positive(record: ArrayRecord, codec: CodecLike) -> CodecLike:
    """Return a codec that keeps the arrays exactly that are positive throughout, as variances are, but not with this.

    A variance of 0 would be there for good: later differences are taken to it.
    """
    decoded = unpress(press(record, codec))
    lost = {
        key
        for key, x in values_of(record).items()
        if is_float(dtype_name(x)) and bool((x > 0).all()) and not bool((decoded[key].numpy() > 0).all())
    }
    policy = as_policy(codec)
    return (lambda spec: lossless_for(spec) if spec.key in lost else policy(spec)) if lost else codec


def _reordered(base: Bundle | None, model: Mapping[str, ArrayLike], digest: str) -> bool:
    """Tell whether a reference has a model's arrays in another order: files of weights may sort them."""
    if base is None or list(base) == list(model) or set(base) != set(model):
        return False
    return digest_of({key: base[key] for key in model}) == digest
