"""LATN/zfp beside the bare zfpy calls on the same view, and beside zfp on native shapes of weights."""

import hashlib

import numpy as np
import zfpy

from flowerpress import LatentChunks, Spec
from flowerpress.codecs import zfp
from flowerpress.codecs.zfp import Zfp
from tests.benchmarks.timing import claim, console, interleaved, ratio, speed, table

TOLERANCE = 1e-3


def overhead(size: int) -> None:
    """Time what is compared together, and little else: other candidates in turn would only empty the caches."""
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    turns = 101 if size < 1 << 20 else 9
    console.print(f"{x.nbytes:,} bytes of float32", style="bold")
    reversible(x, turns)
    latn(x, turns)
    verified(x, turns)


def reversible(x: np.ndarray, turns: int) -> None:
    view, spec, codec = x.reshape(-1, 4), Spec.of(x), Zfp()
    stream = zfpy.compress_numpy(view)
    seconds = interleaved(
        {
            "zfpy encode": lambda: zfpy.compress_numpy(view),
            "encode": lambda: codec.encode(x, spec),
            "zfpy decode": lambda: zfpy.decompress_numpy(stream),
            "decode": lambda: codec.decode(stream, spec),
        },
        turns,
    )
    for what in ("encode", "decode"):
        bare, ours = seconds[f"zfpy {what}"], seconds[what]
        console.print(f"{what}: zfpy {speed(x.nbytes, bare)} MB/s, codec {speed(x.nbytes, ours)} MB/s")
        claim(f"{what} against bare zfpy", ratio(ours, bare), most=1.05)


def latn(x: np.ndarray, turns: int) -> None:
    """LATN chunk, record and SHA-256 both ways."""
    view, chunks, records = x.reshape(-1, 4), LatentChunks(), []
    latent = x.reshape(-1, 4, min(x.size // 16, 4096), 4)
    (chunk,) = chunks.latent_packer({"x": latent}, 0, records, True, False)
    parts = {"chunk": chunk, "len_header": records[0]["len_header"], "len_data": records[0]["len_data"]}
    stream = zfpy.compress_numpy(view)
    seconds = interleaved(
        {
            "zfpy encode": lambda: zfpy.compress_numpy(view),
            "encode": lambda: chunks.latent_packer({"x": latent}, 0, [], True, False),
            "zfpy decode": lambda: zfpy.decompress_numpy(stream),
            "decode": lambda: hashlib.sha256(chunks.latent_parser(parts, latent.shape).data),
        },
        turns,
    )
    both = [a + b for a, b in zip(seconds["encode"], seconds["decode"], strict=True)]
    bare = [a + b for a, b in zip(seconds["zfpy encode"], seconds["zfpy decode"], strict=True)]
    claim("whole reversible path, digests included, against bare zfpy", ratio(both, bare), most=1.20)


def verified(x: np.ndarray, turns: int) -> None:
    view, spec, codec = x.reshape(-1, 4), Spec.of(x), Zfp(tolerance=TOLERANCE)
    seconds = interleaved(
        {
            "zfpy": lambda: zfpy.compress_numpy(view, tolerance=TOLERANCE),
            "verified": lambda: codec.encode(x, spec),
        },
        turns,
    )
    claim("verified lossy encode against bare zfpy", ratio(seconds["verified"], seconds["zfpy"]), most=2.6)


def native_shapes() -> None:
    rng = np.random.default_rng(0)
    shown = table("zfp on native shapes, and as rows of 4", "shape", "size", "of native", "encode", "decode")
    for shape in ((256, 256, 3, 3), (1, 4, 256, 256), (512, 64, 1, 1)):
        x = rng.standard_normal(shape).astype(np.float32)
        native, ours = zfpy.compress_numpy(x), zfp.compress(x)
        encoding = interleaved({"native": lambda x=x: zfpy.compress_numpy(x), "ours": lambda x=x: zfp.compress(x)})
        decoding = interleaved(
            {
                "native": lambda n=native: zfpy.decompress_numpy(n),
                "ours": lambda o=ours, x=x: zfp.decompress(o, "float32", x.size),
            }
        )
        faster = [ratio(t["native"], t["ours"]) for t in (encoding, decoding)]
        shown.add_row(
            str(shape), f"{len(ours) / x.nbytes:.3f}", f"{len(native) / x.nbytes:.3f}", *(f"{f:.2f}x" for f in faster)
        )
        claim(f"{shape}: encode and decode, times faster than native", min(faster), least=1.5)
    console.print(shown)


if __name__ == "__main__":
    for size in (1 << 14, 1 << 18, 1 << 22):
        overhead(size)
    native_shapes()
