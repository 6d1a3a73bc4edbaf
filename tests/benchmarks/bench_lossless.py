"""The default lossless codec: sizes on real weights, speed and ratio beside blosc2, and what noise costs."""

from collections.abc import Callable

import blosc2
import ml_dtypes
import numpy as np
from rich.table import Table

from flowerpress import Bundle, Spec, pack, parse
from flowerpress.apps.classify import Cnn
from tests.benchmarks.timing import claim, console, interleaved, minilm, ratio, speed, table

PIPELINE = parse("zstd")


def sizes(weights: dict[str, np.ndarray]) -> None:
    shown = table("MiniLM weights, whole record: raw bytes / bundle bytes", "dtype", "ratio")
    for name, dtype, least in (
        ("float32", np.float32, 1.20),
        ("bfloat16", ml_dtypes.bfloat16, 1.49),
        ("float16", np.float16, 1.17),
    ):
        record = {key: x.astype(dtype) for key, x in weights.items()}
        found = sum(x.nbytes for x in record.values()) / len(pack(record))
        shown.add_row(name, f"{found:.4f}")
        claim(f"lossless ratio on {name}", found, least=least)
    console.print(shown)


def beside_blosc2(weights: dict[str, np.ndarray]) -> None:
    """One thread each, and the same 4 MiB of one array; blosc2 at its fastest level and at its default."""
    flat = np.concatenate([x.ravel() for key, x in weights.items() if "embeddings" not in key])
    shown = table("4 MiB of float32 weights, one thread", "data", "codec", "ratio", "encode MB/s", "decode MB/s")
    for where, start in (("layers 0-1", 0), ("layers 3-4", 6 << 20)):
        compare(where, np.ascontiguousarray(flat[start : start + (1 << 20)]), shown)
    console.print(shown)


def compare(where: str, x: np.ndarray, shown: Table) -> None:
    spec, ours = Spec.of(x), "flowerpress zstd"
    encoders: dict[str, Callable[[], bytes]] = {
        ours: lambda: bytes(PIPELINE.encode(x, spec)),
        **{f"blosc2 shuffle+zstd {level}": blosc(x, level) for level in (1, 5)},
    }
    coded = {name: encode() for name, encode in encoders.items()}
    decoders: dict[str, Callable[[], object]] = {
        name: (lambda y=y: blosc2.decompress2(y, nthreads=1)) for name, y in coded.items() if name != ours
    }
    encoding = interleaved(encoders)
    decoding = interleaved({ours: lambda: PIPELINE.decode(coded[ours], spec), **decoders})
    for name, y in coded.items():
        speeds = (speed(x.nbytes, seconds[name]) for seconds in (encoding, decoding))
        shown.add_row(where, name, f"{x.nbytes / len(y):.4f}", *speeds)
        if name != ours:
            claim(f"{where}: ratio against {name}", len(y) / len(coded[ours]), least=0.95)
            claim(f"{where}: encode speed against {name}", ratio(encoding[name], encoding[ours]), least=0.6)
            claim(f"{where}: decode speed against {name}", ratio(decoding[name], decoding[ours]), least=0.35)


def blosc(x: np.ndarray, level: int) -> Callable[[], bytes]:
    options = {
        "codec": blosc2.Codec.ZSTD,
        "clevel": level,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 1,
        "typesize": 4,
    }
    return lambda: blosc2.compress2(x, **options)


def noise() -> None:
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in (64, 4096, 65_536, 1 << 20, 40 << 20):
        x = rng.integers(0, 256, size, dtype=np.uint8)
        worst = max(worst, Bundle(pack({"x": x})).encoded_bytes("x") - size)
    claim("bytes that noise grows by, per array", worst, most=64)


def framing() -> None:
    """ResNet-18's 122 arrays, all coded 100 times smaller: what the bundle adds to the codec's own bytes."""
    arrays = resnet18()
    bundle = Bundle(pack(arrays))
    raw = sum(x.nbytes for x in arrays.values())
    chunks, added = len(bundle.layout.chunks), framing_of(bundle)
    console.print(f"ResNet-18: {raw:,} bytes raw, {added:,} bytes of framing in {chunks} chunks")
    claim("framing, % of a record coded 100x smaller", 100 * added / (raw / 100), most=1.0)
    claim("bytes of framing, against a reference", framing_of(against_reference(arrays)), most=500)
    cnn = {key: x.numpy() for key, x in Cnn(1, 8, 8, 10).state_dict().items()}
    claim(f"the same, a CNN of {len(cnn)} arrays", framing_of(against_reference(cnn)), most=100)


def framing_of(bundle: Bundle) -> int:
    return bundle.nbytes - sum(chunk.payload for chunk in bundle.layout.chunks)


def against_reference(bases: dict[str, np.ndarray]) -> Bundle:
    """Return arrays near to these, as a message carries them to a receiver who holds these."""
    rng = np.random.default_rng(0)
    arrays = {
        k: np.asarray(x + rng.normal(size=x.shape) / 100 if x.shape else x + 5, x.dtype) for k, x in bases.items()
    }
    codec = "delta | quantize(step=0.03324, zone=0.6) | entropy"
    return Bundle(pack(arrays, codec, bases=bases, by_schema=True), bases=bases)


def resnet18() -> dict[str, np.ndarray]:
    """Return arrays with ResNet-18's names, shapes and dtypes; values of little entropy, as after a lossy codec."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    channels = 64
    for layer, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes |= {f"{name}.conv1.weight": (width, channels, 3, 3), **norm(f"{name}.bn1", width)}
            shapes |= {f"{name}.conv2.weight": (width, width, 3, 3), **norm(f"{name}.bn2", width)}
            if channels != width:
                shapes[f"{name}.downsample.0.weight"] = (width, channels, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            channels = width
    shapes |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    rng = np.random.default_rng(0)
    return {key: (rng.random(shape) < 0.01).astype(np.float32 if shape else np.int64) for key, shape in shapes.items()}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{part}": (width,) for part in parts}, f"{name}.num_batches_tracked": ()}


def threads() -> None:
    """A 100 MB record: best of 7 interleaved pairs, as cores are shared with others here."""
    rng = np.random.default_rng(0)
    record = {f"w{i}": rng.standard_normal((2500, 1000)).astype(np.float32) for i in range(10)}
    bundle = Bundle(pack(record))
    encoding = interleaved({str(n): (lambda n=n: pack(record, workers=n)) for n in (1, 2)}, 7)
    decoding = interleaved({str(n): (lambda n=n: bundle.read_all(n)) for n in (1, 2)}, 7)
    for what, seconds in (("encode", encoding), ("decode", decoding)):
        best = max(one / two for one, two in zip(seconds["1"], seconds["2"], strict=True))
        claim(f"{what} with two threads against one, 100 MB", best, least=1.5)


if __name__ == "__main__":
    weights = minilm()
    sizes(weights)
    beside_blosc2(weights)
    noise()
    framing()
    threads()
