"""Ours beside other people's codecs by the clock: lossless ratio and speed, lossy speed, and seconds over a link.

The second half of `bench_peers`, which runs it. Peers code array by array, as their users do, except that arrays of
fewer than 65,536 values are joined, as ours are, so that no peer pays its header for each bias.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from flowerpress import Bundle, Spec, pack, parse
from flowerpress.codecs.base import Pipeline
from flowerpress.codecs.intdelta import IntDelta
from tests.benchmarks.data import Arrays, bf16, digits_updates, minilm_updates
from tests.benchmarks.peers import TOLERANCE, Peer, available
from tests.benchmarks.timing import claim, console, interleaved, minilm, speed, table

SGD, ADAMW, MLP, CNN = "MiniLM, SGD update", "MiniLM, AdamW update", "digits MLP update", "digits CNN update"
SMALL = 1 << 16  # values below which arrays are joined
LINKS = {"10 Mbit/s": 1e7, "100 Mbit/s": 1e8, "1 Gbit/s": 1e9, "10 Gbit/s": 1e10}
FIXED_KNOBS = {"rank": (4, 16), "bits kept of 32": (12, 16), "bits kept of the 23 after the point": (4, 8)}
OURS = "ours, quantize | entropy"
ALONE = ("NVFLARE", "hivemind")  # they patch a module while they code: one thread at a time
CORES = 2

Code = Callable[[], Any]


def pairs() -> dict[str, tuple[Arrays, Arrays]]:
    """Return (weights that both ends hold, weights after training) of each update."""
    digits = {name: digits_updates(model)[5] for name, model in ((MLP, "mlp"), (CNN, "cnn"))}
    return {SGD: minilm_updates("sgd"), ADAMW: minilm_updates("adamw"), **digits}


def difference(base: Arrays, after: Arrays) -> Arrays:
    return {key: x - base[key] for key, x in after.items()}


def gathered(arrays: Arrays) -> list[np.ndarray]:
    """Return the large arrays as they are, and the small ones of each dtype as one."""
    small = [x.ravel() for x in arrays.values() if x.size < SMALL]
    return [x for x in arrays.values() if x.size >= SMALL] + ([np.concatenate(small)] if small else [])


def size(arrays: Arrays) -> int:
    return sum(x.size for x in arrays.values())


def energy(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray] | None = None) -> float:
    """Return the sum of the squares, or of the squared differences to ``ys``: in float64, piece by piece."""
    total = 0.0
    for i, x in enumerate(xs):
        flat, other = x.reshape(-1), ys[i].reshape(-1) if ys else None
        for start in range(0, x.size, SMALL):
            piece = flat[start : start + SMALL].astype(np.float64)
            if other is not None:
                piece -= other[start : start + SMALL]
            total += float(piece @ piece)
    return total


def rms(arrays: Arrays) -> float:
    return math.sqrt(energy(list(arrays.values())) / size(arrays))


def relative_error(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> float:
    """Return the L2 norm of the error over the L2 norm, over all arrays; NaN if a codec made any."""
    return math.sqrt(energy(xs, ys) / energy(xs))


def rounding_step(xs: Sequence[np.ndarray], epsilon: float) -> float:
    """Return the step at which plain rounding errs by ``epsilon``, as far as some of the values tell."""
    flat = np.concatenate([x.ravel() for x in xs])
    some = np.abs(flat[:: max(1, flat.size >> 20) | 1]).astype(np.float64)
    most = epsilon * float(np.linalg.norm(some))
    low, high = most / math.sqrt(some.size), 2 * float(some.max())
    for _ in range(20):
        step = math.sqrt(low * high)
        low, high = (step, high) if float(np.linalg.norm(some - step * np.rint(some / step))) < most else (low, step)
    return low


def code(peer: Peer, xs: Sequence[np.ndarray], knob: object) -> tuple[float, float]:
    """Return (epsilon, bits per value) of a peer on the arrays of a record."""
    coded = [peer.encode(x, knob) for x in xs]
    decoded = [peer.decode(y, x.shape, x.dtype) for x, y in zip(xs, coded, strict=True)]
    return relative_error(xs, decoded), 8 * sum(map(len, coded)) / sum(x.size for x in xs)


def tolerance_for(peer: Peer, xs: Sequence[np.ndarray], epsilon: float) -> float:
    """Return a tolerance at which a peer errs by at most ``epsilon``, and not by much less."""
    unit = math.sqrt(energy(xs) / sum(x.size for x in xs))
    if "zfp" in peer.name.lower():  # only knows powers of two
        exponents = range(math.frexp(8 * unit * epsilon)[1], -60, -1)
        return next(2.0**e for e in exponents if code(peer, xs, 2.0**e)[0] <= epsilon)
    knob = epsilon * unit * math.sqrt(3)
    for _ in range(4):
        found, _ = code(peer, xs, knob)
        if 0.98 * epsilon < found <= epsilon:
            break
        knob *= 0.99 * epsilon / found
    return knob


# ---- lossless ----


def lossless() -> None:
    base = minilm()
    exact({"MiniLM, float32": base, "MiniLM, bfloat16": bf16(base)})
    for name, (before, after) in pairs().items():
        integers = {key: IntDelta().encode(x, Spec.of(x, key, before[key])) for key, x in after.items()}
        shown = lossless_table(f"{name}: the weights after it, {size(after):,} values")
        rows(shown, after, before, ("zstd", "intdelta | zstd", "intdelta | entropy"), peers_of("float32"))
        rows(
            shown, {key: x.view(np.float32) for key, x in integers.items()}, None, (), peers_of("float32"), "integers: "
        )
        console.print(shown)


def exact(records: Mapping[str, Arrays]) -> None:
    for name, record in records.items():
        shown = lossless_table(f"{name}, {size(record):,} values")
        rows(shown, record, None, ("zstd",), peers_of(next(iter(record.values())).dtype.name))
        console.print(shown)


def lossless_table(title: str) -> Table:
    return table(f"{title}; one thread", "codec", "ratio", "encode MB/s", "decode MB/s")


def peers_of(dtype: str) -> list[Peer]:
    return [peer for peer in available().values() if peer.lossless and dtype in peer.dtypes]


def rows(
    shown: Table, record: Arrays, base: Arrays | None, ours: Sequence[str], peers: Sequence[Peer], prefix: str = ""
) -> None:
    """Add a row per codec. They take turns array by array; what ours takes is that of the whole bundle."""
    xs, bases = gathered(record), gathered(base) if base else None
    raw = sum(x.nbytes for x in xs)
    turns = max(1, (32 << 20) // raw)
    used = {f"ours, {text}": 0.0 for text in ours} | {prefix + peer.name: 0.0 for peer in peers}
    seconds = {name: np.zeros(2) for name in used}
    for i, x in enumerate(xs):
        spec = Spec.of(x, "x", bases[i] if bases else None)
        coders = {f"ours, {text}": pipeline_coder(parse(text), x, spec) for text in ours}
        coders |= {prefix + peer.name: peer_coder(peer, as_peer_wants(peer, x, prefix), None) for peer in peers}
        for name, (encode, decode) in coders.items():
            spent, y = timed(encode, decode, turns)
            seconds[name] += spent
            used[name] += len(y)
    for text in ours:
        used[f"ours, {text}"] = len(pack(dict(record), text, bases=base))
    for name, count in used.items():
        shown.add_row(name, f"{raw / count:.4f}", *(f"{raw / s / 1e6:,.0f}" for s in seconds[name]))
    shown.add_section()


def as_peer_wants(peer: Peer, x: np.ndarray, prefix: str) -> np.ndarray:
    """Return integers as such for pcodec, which models numbers; the others know bytes, or floats alone."""
    return x.view(np.uint32) if prefix and peer.name.startswith("pcodec") else x


def pipeline_coder(pipeline: Pipeline, x: np.ndarray, spec: Spec) -> tuple[Code, Callable[[Any], Any]]:
    return lambda: pipeline.encode(x, spec), lambda y: pipeline.decode(y, spec)


def peer_coder(peer: Peer, x: np.ndarray, knob: object) -> tuple[Code, Callable[[Any], Any]]:
    return lambda: peer.encode(x, knob), lambda y: peer.decode(y, x.shape, x.dtype)


def timed(encode: Code, decode: Callable[[Any], Any], turns: int) -> tuple[np.ndarray, Any]:
    """Return median (encode, decode) seconds, and the bytes."""
    found = []
    for _ in range(turns):
        started = time.perf_counter()
        y = encode()
        between = time.perf_counter()
        decode(y)
        found.append((between - started, time.perf_counter() - between))
    return np.median(found, 0), y


# ---- lossy speed ----


def lossy_speed() -> None:
    base, after = digits_updates("mlp")[5]
    arrays = {
        "MiniLM weights, 2,730 rows of words": minilm()["embeddings.word_embeddings.weight"][:2730],
        MLP: after["3.weight"] - base["3.weight"],
    }
    for name, x in arrays.items():
        shown = table(f"{name}, {x.nbytes / 2**20:.1f} MiB, one thread", "codec", "epsilon", "bits", "encode", "decode")
        for epsilon in (0.05, 0.005):
            coders = {OURS: ours(f"quantize(step={rounding_step([x], epsilon)!r}) | entropy", x)}
            for peer in available().values():
                if peer.knob == TOLERANCE:
                    coders[peer.name] = peer_coder(peer, x, tolerance_for(peer, [x], epsilon))
            race(shown, x, coders)
        settled = settled_pipeline(pack({"x": x}, "budget(lowrank | entropy, bits=0.1)"))
        peers = {label: peer_coder(peer, x, knob) for label, peer, knob in fixed_rate()}
        race(shown, x, {"ours, lowrank, 0.1 bit": ours(settled, x), **peers})
        console.print(shown)


def ours(text: str, x: np.ndarray) -> tuple[Code, Callable[[Any], Any]]:
    return pipeline_coder(parse(text), x, Spec.of(x, "x"))


def fixed_rate() -> list[tuple[str, Peer, object]]:
    """Return (label, peer, knob) of the lossy peers that take no tolerance."""
    peers = [peer for peer in available().values() if not peer.lossless and peer.knob != TOLERANCE]
    short = {"rank": " rank", "": ""}
    return [
        (f"{peer.name}{short.get(peer.knob, '')}{f' {knob}' if knob else ''}", peer, knob)
        for peer in peers
        for knob in FIXED_KNOBS.get(peer.knob, (None,))
    ]


def race(shown: Table, x: np.ndarray, coders: Mapping[str, tuple[Code, Callable[[Any], Any]]]) -> None:
    """Add a row per codec: what it errs by, what it takes, and MB/s of the array, codecs taking turns."""
    coded = {name: encode() for name, (encode, _) in coders.items()}
    encoding = interleaved({name: encode for name, (encode, _) in coders.items()}, 5)
    decoding = interleaved({name: partial(decode, coded[name]) for name, (_, decode) in coders.items()}, 5)
    for name, y in coded.items():
        found = relative_error([x], [coders[name][1](y)])
        speeds = (speed(x.nbytes, seconds[name]) for seconds in (encoding, decoding))
        shown.add_row(name, f"{found:.5f}", f"{8 * len(y) / x.size:.3f}", *speeds)
    shown.add_section()


# ---- links ----


@dataclass(frozen=True)
class Sender:
    """Something that makes bytes of a record and a record of bytes."""

    name: str
    encode: Code
    decode: Callable[[Any], Any]
    error: Callable[[Any], float]  # epsilon of what was decoded


def measured(senders: Sequence[Sender]) -> dict[str, tuple[float, int, float]]:
    """Return median seconds to encode and decode, bytes, and epsilon, by name; senders take turns."""
    coded = {s.name: s.encode() for s in senders}
    encoding = interleaved({s.name: s.encode for s in senders}, 5)
    decoding = interleaved({s.name: partial(s.decode, coded[s.name]) for s in senders}, 5)
    found = {}
    for s in senders:
        y = coded[s.name]
        used = len(y) if isinstance(y, bytes) else sum(map(len, y))
        found[s.name] = median(encoding[s.name]) + median(decoding[s.name]), used, s.error(s.decode(y))
    return found


def links() -> None:
    found = pairs()
    for name in (SGD, MLP):
        base, after = found[name]
        update = difference(base, after)
        senders = [*our_senders(base, after, update), *peer_senders(after, update)]
        raw = sum(x.nbytes for x in update.values())
        spent = measured(senders)
        show_links(name, spent, raw)
        for key, (seconds, used, _) in spent.items():
            if key.startswith("ours"):
                share = (seconds + 8 * used / 1e9) / (8 * raw / 1e9)
                claim(f"{name}, 1 Gbit/s, {key}: seconds over raw's", share, most=1.0)


def our_senders(base: Arrays, after: Arrays, update: Arrays) -> list[Sender]:
    """Return ours on all cores: what travels are the weights after the update, and the receiver holds the base."""
    step = rounding_step(list(update.values()), 0.05)
    budgets = {text: f"delta | budget({text}bits=0.1)" for text in ("", "lowrank | entropy, ")}
    settled = {text: settled_pipeline(pack(dict(after), plan, bases=base)) for text, plan in budgets.items()}
    pipelines = {
        "zstd": "zstd",
        "intdelta | zstd": "intdelta | zstd",
        "8 bits, packed": "delta | quantize(bits=8) | bitpack",
        "4 bits in blocks, packed": "delta | quantize(bits=4, block=64) | bitpack",
        "quantize, epsilon 0.05": f"delta | quantize(step={step!r}) | entropy",
        "quantize, 0.1 bit": settled[""],
        "lowrank, 0.1 bit": settled["lowrank | entropy, "],
    }

    def sender(name: str, text: str) -> Sender:
        def decode(y: bytes) -> Arrays:
            return Bundle(y, bases=base).read_all()

        def error(decoded: Arrays) -> float:
            return math.sqrt(energy(list(after.values()), list(decoded.values())) / energy(list(update.values())))

        return Sender(f"ours, {name}", lambda: pack(dict(after), text, bases=base), decode, error)

    return [sender(name, text) for name, text in pipelines.items()]


def settled_pipeline(bundle: bytes) -> str:
    """Return the pipeline with a step that a bundle names."""
    return next(text for text in map(str, Bundle(bundle).layout.pipelines) if "step" in text)


def peer_senders(after: Arrays, update: Arrays) -> list[Sender]:
    """Return peers, a thread per core where they bear it: the update, made beforehand, or the weights if exact."""
    whole, xs = gathered(after), gathered(update)
    wanted = {
        "torch fp16": (0.0, xs),
        "SZ3 INTERP_LORENZO 1-D": (0.05, xs),
        "zfp rows of 4": (0.05, xs),
        "ZipNN": (0.0, whole),
        "hivemind Blockwise": (0.0, xs),
    }
    raw = Sender("raw", lambda: [x.tobytes() for x in xs], lambda ys: ys, lambda _: 0.0)
    found = [(available().get(name), epsilon, of) for name, (epsilon, of) in wanted.items()]
    return [raw, *(peer_sender(peer, epsilon, of) for peer, epsilon, of in found if peer)]


def peer_sender(peer: Peer, epsilon: float, xs: Sequence[np.ndarray]) -> Sender:
    knob = tolerance_for(peer, xs, epsilon) if epsilon else None
    threads = 1 if peer.name.startswith(ALONE) else CORES

    def each(function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, *columns))

    def decode(ys: Sequence[Any]) -> list[np.ndarray]:
        return each(lambda x, y: peer.decode(y, x.shape, x.dtype), xs, ys)

    return Sender(peer.name, lambda: each(lambda x: peer.encode(x, knob), xs), decode, partial(relative_error, xs))


def show_links(name: str, spent: Mapping[str, tuple[float, int, float]], raw: int) -> None:
    """Print seconds to encode, send and decode; the fastest on each link is marked."""
    shown = table(f"{name}, {raw / 1e6:.1f} MB: seconds to encode, send and decode", "codec", "MB", "epsilon", *LINKS)
    total = {key: [s + 8 * used / rate for rate in LINKS.values()] for key, (s, used, _) in spent.items()}
    least = [min(column) for column in zip(*total.values(), strict=True)]
    for key, seconds in total.items():
        marked = (f"{s:.3g}{' *' if s == low else '  '}" for s, low in zip(seconds, least, strict=True))
        _, used, error = spent[key]
        shown.add_row(key, f"{used / 1e6:.3f}", f"{error:.3g}" if error else "", *marked)
    console.print(shown)


def main() -> None:
    lossless()
    lossy_speed()
    links()
