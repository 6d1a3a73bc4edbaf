"""Ours beside other people's codecs on real records: bits at equal error, and, by `bench_links`, ratios and seconds.

Epsilon is the L2 error relative to the L2 norm over the whole record, bits are those of the whole bundle per value.
Nobody's codec hits an epsilon exactly: bits are interpolated, linearly in log2(epsilon), between measured points.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from flowerpress import Bundle, Spec, pack
from flowerpress.codecs.quantize import Quantize
from tests.benchmarks import bench_links
from tests.benchmarks.bench_links import (
    ADAMW,
    CNN,
    CORES,
    MLP,
    SGD,
    code,
    difference,
    fixed_rate,
    gathered,
    rms,
    rounding_step,
    size,
)
from tests.benchmarks.data import Arrays, minilm_moments
from tests.benchmarks.peers import available, missing
from tests.benchmarks.timing import claim, console, minilm, table

mpl.use("Agg")
from matplotlib import pyplot as plt

Point = tuple[float, ...]  # epsilon, bits per value, and the entropy of the indices where there are any
Measure = Callable[[float], Point]

EPSILONS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
WEIGHTS, MOMENT = "MiniLM, weights", "MiniLM, Adam's exp_avg"
UPDATES = (SGD, ADAMW, MLP, CNN)
NEAR = 0.04  # of epsilon
OURS, ZONED, LOW = "quantize | entropy", "quantize(zone=0.6) | entropy", "lowrank | entropy"
SZ3, ZFP, PCODEC = "SZ3", "zfp", "quantised, pcodec"
BEST = {SZ3: "SZ3, best of its settings", ZFP: "zfp, best of its views", PCODEC: "quantised, pcodec 8"}
PLOT = Path(__file__).parent / "results" / "rate-distortion.png"


@cache
def records() -> dict[str, Arrays]:
    updates = {name: difference(*pair) for name, pair in bench_links.pairs().items()}
    return {WEIGHTS: minilm(), MOMENT: minilm_moments()[0], **updates}


def spread(function: Callable[..., object], *columns: Sequence[object]) -> list:
    """Map in processes that share the records; nothing is timed there."""
    with ProcessPoolExecutor(CORES, get_context("fork")) as pool:
        return list(pool.map(function, *columns))


# ---- curves: bits and epsilon of one codec on one record ----


def curves() -> dict[str, dict[str, list[Point]]]:
    """Return measured points by record and codec, sorted."""
    theirs = [peer.name for peer in available().values() if peer.name.startswith(tuple(BEST))]
    tasks = [(name, codec) for name in records() for codec in (OURS, ZONED, LOW, *theirs)]
    tasks = [(name, codec) for name, codec in tasks if codec != LOW or name in UPDATES]
    found: dict[str, dict[str, list[Point]]] = {name: {} for name in records()}
    for (name, codec), points in zip(tasks, spread(curve, *zip(*tasks, strict=True)), strict=True):
        found[name][codec] = points
    return found


def curve(name: str, codec: str) -> list[Point]:
    record = records()[name]
    if codec == LOW:
        return steps(lambda step: bundle(record, f"lowrank(step={step!r}) | entropy"), 2 * rms(record))
    if codec in (OURS, ZONED):
        zone, epsilons = (0.5, EPSILONS) if codec == OURS else (0.6, EPSILONS[:3])
        return matched(partial(quantized, record, zone), 1.0, name, epsilons)
    measure = partial(code, available()[codec], gathered(record))
    return powers(measure, rms(record)) if codec.startswith(ZFP) else matched(measure, 0.5, name)


def bundle(record: Arrays, text: str) -> Point:
    """Return (epsilon, bits) of a whole bundle, as its reader finds them."""
    packed = pack(dict(record), text)
    decoded = Bundle(packed).read_all()
    error = bench_links.relative_error(list(record.values()), [decoded[key] for key in record])
    return error, 8 * len(packed) / size(record)


def quantized(record: Arrays, zone: float, step: float) -> Point:
    """Return (epsilon, bits) with one step for the record; with plain rounding the entropy of the indices, too."""
    point = bundle(record, f"quantize(step={step!r}, zone={zone}) | entropy")
    return (*point, entropy(record, step)) if zone == 0.5 else point


def entropy(record: Arrays, step: float) -> float:
    """Return the bits per value of one ideal code for all indices of a record."""
    indices = [np.asarray(Quantize(step=step).encode(x, Spec.of(x))) for x in record.values()]
    low, high = min(int(q.min()) for q in indices), max(int(q.max()) for q in indices)
    counts = sum(np.bincount(q - low, minlength=high - low + 1) for q in indices)
    shares = counts[counts > 0] / size(record)
    return float(-(shares * np.log2(shares)).sum())


def matched(measure: Measure, share: float, name: str, epsilons: Sequence[float] = EPSILONS) -> list[Point]:
    """Return points near each epsilon, from the ``share`` of the step at which plain rounding errs so much."""
    points = []
    for epsilon in epsilons:
        guess = rounding(name)[epsilon]
        for _ in range(4):
            points.append(measure(share * guess))
            if abs(math.log(points[-1][0] / epsilon)) < NEAR:
                break
            share *= (epsilon / points[-1][0]) ** 1.2  # coarse steps err by less than their share
    return sorted(points)


@cache
def rounding(name: str) -> dict[float, float]:
    return {epsilon: rounding_step(list(records()[name].values()), epsilon) for epsilon in EPSILONS}


def powers(measure: Measure, unit: float) -> list[Point]:
    """Return points at powers of four, of the powers of two that zfp knows, from below the finest epsilon on.

    Its curves are straight: the points between them lie on the lines.
    """
    exponent = math.frexp(4 * unit * min(EPSILONS))[1]
    points = [measure(2.0**exponent)]
    while min(points)[0] > min(EPSILONS):
        points.append(measure(2.0 ** (exponent - 2 * len(points))))
    while max(points)[0] < max(EPSILONS):
        exponent += 2
        points.append(measure(2.0**exponent))
    return sorted(points)


def steps(measure: Measure, step: float) -> list[Point]:
    """Return points of larger steps up to the coarsest epsilon, and of smaller ones as long as they err by less."""
    points = [measure(step)]
    for i in range(1, 12):
        if max(points)[0] > max(EPSILONS):
            break
        points.append(measure(step * 2**i))
    points.sort()
    while len(points) < 20 and points[0][0] > min(EPSILONS):
        step /= 1.5
        points.insert(0, measure(step))
        if 0.98 * points[1][0] < points[0][0] and points[1][0] < 0.9:
            break
    return sorted(points)


def at(points: Sequence[Point], epsilon: float, column: int = 1) -> float:
    """Return bits at an epsilon, between two measured points or next to one, and NaN elsewhere."""
    if not points or not points[0][0] * (1 - NEAR) <= epsilon <= points[-1][0] * (1 + NEAR):
        return math.nan
    i = min(max(1, sum(point[0] < epsilon for point in points)), len(points) - 1)
    (x0, y0), (x1, y1) = ((math.log2(point[0]), point[column]) for point in points[i - 1 : i + 1])
    return y0 + (y1 - y0) * (math.log2(epsilon) - x0) / (x1 - x0) if x1 > x0 else y0


def best(found: Mapping[str, list[Point]], prefix: str, epsilon: float) -> float:
    """Return the fewest bits of the codecs whose name starts like that."""
    bits = [at(points, epsilon) for name, points in found.items() if name.startswith(prefix)]
    return min((b for b in bits if not math.isnan(b)), default=math.nan)


# ---- rate and distortion ----


def rate_distortion(found: Mapping[str, Mapping[str, list[Point]]]) -> None:
    for name, by_codec in found.items():
        shown = table(f"{name}, {size(records()[name]):,} values: bits per value at epsilon", "", *map(str, EPSILONS))
        for label, row in rows(by_codec).items():
            shown.add_row(label, *map(cell, row))
        console.print(shown)
        claims(name, rows(by_codec), by_codec[OURS])
        if LOW in by_codec:
            error, bits = by_codec[LOW][0]
            _, also = bundle(records()[name], f"budget(error={error!r})")
            told = f"reach epsilon {error:.3f}, with {bits:.3f} bit; quantize takes {also:.3f} bit there"
            console.print(f"{LOW}: at most 16 directions {told}", highlight=False)


def rows(by_codec: Mapping[str, list[Point]]) -> dict[str, list[float]]:
    found = {
        "Gaussian bound, log2(1 / epsilon)": [math.log2(1 / e) for e in EPSILONS],
        "entropy of our indices": [at(by_codec[OURS], e, 2) for e in EPSILONS],
    }
    found |= {f"ours, {name}": [at(by_codec.get(name, []), e) for e in EPSILONS] for name in (OURS, ZONED, LOW)}
    return found | {label: [best(by_codec, prefix, e) for e in EPSILONS] for prefix, label in BEST.items()}


def cell(bits: float) -> str:
    return "" if math.isnan(bits) else f"{bits:.3f}"


def claims(name: str, found: Mapping[str, list[float]], points: Sequence[Point]) -> None:
    """Print the worst case of each claim over the epsilons: ours is plain rounding, one step for the record."""
    bound, ours, sz3, zfp = (np.array(found[key]) for key in (next(iter(found)), f"ours, {OURS}", BEST[SZ3], BEST[ZFP]))
    coarse, trained = np.array(EPSILONS) <= 0.1, name not in (MLP, CNN)
    if not np.isnan(sz3).all():
        claim(f"{name}: bits under SZ3's best, least", float(np.nanmin(sz3 - ours)), least=0.0 if trained else -0.05)
    over = [p[1] - p[2] for p in points if 0.2 <= p[2] <= 8]
    claim(f"{name}: bits over the entropy of the indices, 0.2 to 8 bits, most", max(over), most=0.10)
    if trained and not np.isnan(zfp).all():
        claim(
            f"{name}: bits under zfp's best, epsilon <= 0.1, least", float(np.nanmin((zfp - ours)[coarse])), least=1.5
        )
    if name == WEIGHTS:
        claim(f"{name}: bits over the bound, epsilon <= 0.1, most", float((ours - bound)[coarse].max()), most=0.30)


# ---- codecs without a knob for the error ----


def fixed(name: str, label: str) -> Point:
    """Return (epsilon, bits) of a peer, array by array as they are."""
    peer, knob = next((peer, knob) for found, peer, knob in fixed_rate() if found == label)
    torch.manual_seed(0)
    return code(peer, [x for x in records()[name].values() if x.size], knob)


def beside_fixed(found: Mapping[str, Mapping[str, list[Point]]]) -> dict[str, dict[str, Point]]:
    """Print what ours takes where such a peer errs as it does; return what the peers take, by record."""
    names = (MLP, CNN, SGD)
    labels = [label for label, _, _ in fixed_rate()]
    tasks = [(name, label) for name in (*names, WEIGHTS) for label in labels]
    theirs: dict[str, dict[str, Point]] = {name: {} for name in (*names, WEIGHTS)}
    for (name, label), point in zip(tasks, spread(fixed, *zip(*tasks, strict=True)), strict=True):
        theirs[name][label] = point
    for name in names:
        lines = list(theirs[name].items())
        ours = spread(partial(ours_at, name, found[name][LOW]), [point[0] for _, point in lines])
        columns = "peer", "epsilon", "bits", "ours", "of", "times fewer"
        shown = table(f"{name}: bits per value of peers, and of ours with at most their error", *columns)
        for (label, (error, bits)), (few, codec) in zip(lines, ours, strict=True):
            shown.add_row(
                label,
                f"{error:.5f}" if math.isfinite(error) else "NaN",
                f"{bits:.3f}",
                cell(few),
                codec,
                cell(bits / few),
            )
        console.print(shown)
    return theirs


def ours_at(name: str, low: Sequence[Point], error: float) -> tuple[float, str]:
    """Return the fewest bits of ours at such an error at most, and what took them."""
    if not math.isfinite(error):
        return math.nan, ""
    record = records()[name]
    pipelines = {"quantize": f"budget(error={error!r})"}
    if error >= low[0][0]:
        pipelines["lowrank"] = f"budget(lowrank | entropy, error={error!r})"
    return min((8 * len(pack(dict(record), text)) / size(record), codec) for codec, text in pipelines.items())


# ---- plot ----


def plot(found: Mapping[str, Mapping[str, list[Point]]], theirs: Mapping[str, Mapping[str, Point]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for axis, name in zip(axes, (WEIGHTS, MLP), strict=True):
        draw(axis, found[name], theirs[name])
        axis.set(title=name, xscale="log", xlim=(1.2, 1e-4), ylim=(0, 18), xlabel="epsilon, relative L2 error")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("bits per value")
    axes[1].legend(fontsize=7, loc="upper left", ncols=2)
    figure.tight_layout()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=110)
    console.print(f"{PLOT.name}: {PLOT.stat().st_size:,} bytes", highlight=False)


def draw(axis: plt.Axes, by_codec: Mapping[str, list[Point]], theirs: Mapping[str, Point]) -> None:
    axis.plot([1, 1e-4], [0, math.log2(1e4)], "k:", label="Gaussian bound")
    lines = [("ours, quantize", OURS, "C0o-"), ("ours, lowrank", LOW, "C2o-")]
    for label, codec, style in lines:
        if codec in by_codec:
            axis.plot(*zip(*(point[:2] for point in by_codec[codec]), strict=True), style, label=label, ms=3)
    for prefix, style in ((SZ3, "C1s-"), (ZFP, "C3^-"), (PCODEC, "C4x--")):
        if bits := [(e, b) for e in EPSILONS if not math.isnan(b := best(by_codec, prefix, e))]:
            axis.plot(*zip(*bits, strict=True), style, label=BEST[prefix], ms=4, lw=1)
    markers = iter("*PXDdpvh<>")
    for label, (error, bits) in theirs.items():
        if label.startswith(("NVFLARE", "hivemind")):
            axis.plot(error, bits, f"C{5 if label.startswith('NV') else 6}{next(markers)}", label=label, ls="", ms=6)


def main() -> None:
    torch.set_num_threads(1)
    for name, reason in missing().items():
        reason = reason.replace(str(Path.home()), "~")
        console.print(f"not here: {name}: {reason}", markup=False, highlight=False, soft_wrap=True)
    for name in records():
        rounding(name)
    found = curves()
    rate_distortion(found)
    plot(found, beside_fixed(found))
    bench_links.main()


if __name__ == "__main__":
    main()
