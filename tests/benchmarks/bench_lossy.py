"""Quantiser and entropy coder on real weights: bits beside the Gaussian bound, the entropy and zfp; speed; bounds."""

import math
from unittest import mock

import numpy as np
import zfpy

from flowerpress import Bundle, Spec, pack, parse
from flowerpress.codecs.base import Pipeline
from flowerpress.codecs.quantize import Quantize
from tests.benchmarks.timing import claim, console, interleaved, minilm, ratio, speed, table

EPSILONS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def rate_distortion(weights: dict[str, np.ndarray]) -> None:
    """One step for all tensors; epsilon is the L2 error relative to the L2 norm, over the whole record."""
    size = sum(x.size for x in weights.values())
    norm = math.sqrt(sum(float(np.square(x, dtype=np.float64).sum()) for x in weights.values()))
    flat = np.concatenate([x.ravel() for x in weights.values()])
    shown = table("MiniLM weights, bits per value", "epsilon", "bound", "entropy", "flowerpress", "zfp, best view")
    for epsilon in EPSILONS:
        step = epsilon * norm / math.sqrt(size) * math.sqrt(12)
        pipeline = parse(f"quantize(step={step!r}) | entropy")
        bits = 8 * len(pack(dict(weights), pipeline)) / size
        decoded = pipeline.decode(pipeline.encode(flat, Spec.of(flat)), Spec.of(flat))
        found = float(np.linalg.norm((flat - decoded).astype(np.float64))) / norm
        indices = np.asarray(Quantize(step=step).encode(flat, Spec.of(flat)))
        counts = np.unique(indices, return_counts=True)[1] / size
        entropy = float(-(counts * np.log2(counts)).sum())
        zfp = zfp_bits(flat, found * norm)
        gauss = math.log2(1 / found)
        shown.add_row(f"{found:.4f}", f"{gauss:.3f}", f"{entropy:.3f}", f"{bits:.3f}", f"{zfp:.3f}")
        if epsilon <= 0.1:
            claim(f"epsilon {found:.4f}: bits over log2(1/epsilon)", bits - gauss, most=0.30)
        claim(f"epsilon {found:.4f}: bits over the entropy of the indices", bits - entropy, most=0.10)
        claim(f"epsilon {found:.4f}: bits under zfp's best view", zfp - bits, least=1.5)
    console.print(shown)


def zfp_bits(flat: np.ndarray, error: float) -> float:
    """Return zfp's bits per value at an L2 error, between the two tolerances around it, for the best of its views."""
    found = []
    for width in (1, 4, 384):
        x = flat[: flat.size // width * width].reshape(-1, width).squeeze()[: 1 << 22]
        scale = math.sqrt(flat.size / x.size)
        points = []
        for exponent in range(-18, 1):
            stream = zfpy.compress_numpy(x, tolerance=2.0**exponent)
            wrong = float(np.linalg.norm((x - zfpy.decompress_numpy(stream)).astype(np.float64))) * scale
            points.append((wrong, 8 * len(stream) / x.size))
        below = [p for p in points if p[0] <= error]
        above = [p for p in points if p[0] > error]
        if below and above:
            (e0, b0), (e1, b1) = max(below), min(above)
            found.append(b0 + (b1 - b0) * math.log(error / e0) / math.log(e1 / e0))
    return min(found)


def speeds(weights: dict[str, np.ndarray]) -> None:
    x = np.concatenate([v.ravel() for key, v in weights.items() if "embeddings" not in key])[: 1 << 20]
    spec, view = Spec.of(x), x.reshape(-1, 4)
    shown = table("4 MiB of weights, one thread", "epsilon", "codec", "encode MB/s", "decode MB/s")
    for epsilon in (0.05, 0.005):
        step = epsilon * float(np.sqrt(np.mean(np.square(x)))) * math.sqrt(12)
        pipeline = parse(f"quantize(step={step!r}) | entropy")
        tolerance = matching(view, epsilon)
        ours, theirs = bytes(pipeline.encode(x, spec)), zfpy.compress_numpy(view, tolerance=tolerance)
        encoding = interleaved(
            {
                "flowerpress": lambda p=pipeline: p.encode(x, spec),
                "zfp": lambda t=tolerance: zfpy.compress_numpy(view, tolerance=t),
            }
        )
        decoding = interleaved(
            {
                "flowerpress": lambda p=pipeline, y=ours: p.decode(y, spec),
                "zfp": lambda y=theirs: zfpy.decompress_numpy(y),
            }
        )
        for name in encoding:
            shown.add_row(str(epsilon), name, speed(x.nbytes, encoding[name]), speed(x.nbytes, decoding[name]))
        claim(f"epsilon {epsilon}: encode, times zfp", ratio(encoding["zfp"], encoding["flowerpress"]), least=2.0)
        claim(f"epsilon {epsilon}: decode, times zfp", ratio(decoding["zfp"], decoding["flowerpress"]), least=5.0)
    console.print(shown)


def bounds(weights: dict[str, np.ndarray]) -> None:
    """Count the values that exceed their bound, and time the check that none does."""
    values = violations = 0
    for argument, absolute in (
        ("bound=0.01", 1e-2),
        ("bound=0.0001", 1e-4),
        ("relative=0.01", 0.0),
        ("relative=0.0001", 0.0),
    ):
        bundle = Bundle(pack(dict(weights), f"quantize({argument}) | entropy"))
        share = float(argument.split("=")[1])
        for key, x in weights.items():
            most = absolute or share * (float(x.max()) - float(x.min()))
            violations += int((np.abs(bundle[key].astype(np.float64) - x) > most).sum())
            values += x.size
    noise = np.random.default_rng(0).standard_normal(1 << 24).astype(np.float32)
    found = Bundle(pack({"x": noise}, "quantize(bound=0.001) | entropy"))["x"]
    violations += int((np.abs(found.astype(np.float64) - noise) > 0.001).sum())
    console.print(f"{values + noise.size:,} values with bounds")
    claim("values beyond their bound", violations, most=0)
    x = np.concatenate([v.ravel() for key, v in weights.items() if "embeddings" not in key])[: 1 << 20]
    for bound in (1e-2, 1e-3):
        pipeline = parse(f"quantize(bound={bound}) | entropy")
        seconds = interleaved(
            {
                "checked": lambda p=pipeline: p.encode(x, Spec.of(x)),
                "unchecked": lambda p=pipeline: unchecked(p, x),
            },
            turns=25,
        )
        claim(f"bound {bound}: time with the check", ratio(seconds["checked"], seconds["unchecked"]), most=1.15)


def unchecked(pipeline: Pipeline, x: np.ndarray) -> None:
    """Encode without comparing what will be decoded."""
    with mock.patch.object(Quantize, "_check", return_value=None):
        pipeline.encode(x, Spec.of(x))


def matching(view: np.ndarray, epsilon: float) -> float:
    """Return the power of two at which zfp's error is nearest below epsilon."""
    norm = float(np.linalg.norm(view))
    for exponent in range(0, -20, -1):
        decoded = zfpy.decompress_numpy(zfpy.compress_numpy(view, tolerance=2.0**exponent))
        if float(np.linalg.norm(view - decoded)) <= epsilon * norm:
            return 2.0**exponent
    raise ValueError("zfp cannot be that exact")


if __name__ == "__main__":
    loaded = minilm()
    rate_distortion(loaded)
    speeds(loaded)
    bounds(loaded)
