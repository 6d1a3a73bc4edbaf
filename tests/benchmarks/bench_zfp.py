"""LATN/zfp beside the bare zfpy calls on the same view, and beside zfp on native shapes of weights."""

import numpy as np
import zfpy

from flowerpress import LatentChunks, Spec
from flowerpress.codecs import zfp
from flowerpress.codecs.zfp import Zfp
from tests.benchmarks.timing import claim, console, interleaved, ratio, speed, table

TOLERANCE = 1e-3


def overhead(size: int) -> None:
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    view, spec, codec, lossy = x.reshape(-1, 4), Spec.of(x), Zfp(), Zfp(tolerance=TOLERANCE)
    chunks, records = LatentChunks(), []
    latent = x.reshape(1, 4, -1, 8 if size // 32 > 8192 else 4) if size // 16 > 8192 else x.reshape(1, 4, -1, 4)
    while max(latent.shape) > 8192:
        latent = latent.reshape(latent.shape[0] * 2, *latent.shape[1:2], -1, latent.shape[3])
    stream = zfpy.compress_numpy(view)
    bare_lossy = zfpy.compress_numpy(view, tolerance=TOLERANCE)
    turns = 31 if size < 1 << 20 else 9
    encoding = interleaved(
        {
            "zfpy": lambda: zfpy.compress_numpy(view),
            "zfpy tolerance": lambda: zfpy.compress_numpy(view, tolerance=TOLERANCE),
            "codec zfp": lambda: codec.encode(x, spec),
            "codec zfp(tolerance), verified": lambda: lossy.encode(x, spec),
            "LATN with digest": lambda: chunks.latent_packer({"x": latent}, 0, records, True, False),
        },
        turns,
    )
    (chunk,) = chunks.latent_packer({"x": latent}, 0, records := [], True, False)
    parts = {"chunk": chunk, "len_header": records[0]["len_header"], "len_data": records[0]["len_data"]}
    decoding = interleaved(
        {
            "zfpy": lambda: zfpy.decompress_numpy(stream),
            "zfpy tolerance": lambda: zfpy.decompress_numpy(bare_lossy),
            "codec zfp": lambda: codec.decode(stream, spec),
            "codec zfp(tolerance), verified": lambda: lossy.decode(bare_lossy, spec),
            "LATN with digest": lambda: _checked(chunks, parts, latent.shape),
        },
        turns,
    )
    shown = table(f"{x.nbytes:,} bytes of float32", "what", "encode MB/s", "decode MB/s")
    for name in encoding:
        shown.add_row(name, speed(x.nbytes, encoding[name]), speed(x.nbytes, decoding[name]))
    console.print(shown)
    claim("encode against bare zfpy", ratio(encoding["codec zfp"], encoding["zfpy"]), most=1.05)
    claim("decode against bare zfpy", ratio(decoding["codec zfp"], decoding["zfpy"]), most=1.05)
    both = [a + b for a, b in zip(encoding["LATN with digest"], decoding["LATN with digest"], strict=True)]
    bare = [a + b for a, b in zip(encoding["zfpy"], decoding["zfpy"], strict=True)]
    claim("whole reversible path, digests included, against bare zfpy", ratio(both, bare), most=1.20)
    verified = ratio(encoding["codec zfp(tolerance), verified"], encoding["zfpy tolerance"])
    claim("verified lossy encode against bare zfpy", verified, most=2.6)


def _checked(chunks: LatentChunks, parts: dict[str, object], shape: tuple[int, ...]) -> None:
    import hashlib

    hashlib.sha256(chunks.latent_parser(parts, shape).data)


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
