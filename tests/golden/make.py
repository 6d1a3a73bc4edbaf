"""Writes the golden files of this version: ``python -m tests.golden.make``. Files that are there are never changed."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flowerpress import LatentChunks, pack

HERE = Path(__file__).parent
BUNDLES = {
    "bundle-1-zstd": "zstd",
    "bundle-1-zstd-level": "zstd(level=9)",
    "bundle-1-raw": "raw",
    "bundle-1-planes": "planes",
    "bundle-1-zfp": "zfp",
    "bundle-1-zfp-tolerance": "zfp(tolerance=0.01)",
    "bundle-1-intdelta": "intdelta | zstd",
    "bundle-1-delta-tolerance": "delta | zfp(tolerance=0.01)",
    "bundle-1-quantize-tolerance": "quantize(bound=0.01) | entropy",
    "bundle-1-quantize-blocks-tolerance": "delta | quantize(bits=8, block=16) | entropy",
    "bundle-1-intdelta-entropy": "intdelta | entropy",
    "bundle-1-policy": "half*:float16 = raw; *.bias = zfp; * = zstd",
    "bundle-1-nonzero": "nonzero | zstd",
    "bundle-1-sparse-tolerance": "sparse(above=0.01) | nonzero | zstd",
    "bundle-1-sparse-delta-tolerance": "delta | sparse(above=0.01) | nonzero",
    "bundle-1-lowrank-tolerance": "lowrank(rank=3, step=0.01) | entropy",
    "bundle-1-contexts-tolerance": "quantize(step=0.015) | entropy",
    "bundle-1-contexts-intdelta": "intdelta | entropy",
    "bundle-1-joint-lowrank-tolerance": "lowrank(rank=2, step=0.01) | entropy",
    "bundle-1-positive-delta-tolerance": "delta(positive=true) | quantize(step=0.01) | entropy",
    "bundle-1-cast-tolerance": "cast | zstd",
    "bundle-2-positive-delta-tolerance": "delta(positive=true) | quantize(step=0.01) | entropy",
    "bundle-2-intdelta": "intdelta | zstd",
    "bundle-2-quantize-delta-tolerance": "delta | quantize(bound=0.01) | entropy",
    "bundle-2-contexts-intdelta": "intdelta | entropy",
}


# The first values of the wave below, as it was when the files were made: sines differ by a bit between processors.
FIRST = """
    0x0.0p+0 0x1.48bde80231dedp-1 0x1.f532a1c174701p-1 0x1.b590ca6797d31p-1 0x1.527c09516b335p-2
    -0x1.6143d2f846612p-2 -0x1.b56917a294b8dp-1 -0x1.eb6a21b7ef3afp-1 -0x1.3ab41a73a4026p-1 0x1.0b565a190246ep-6
    0x1.4559713ec2176p-1 0x1.e7ba16d0a27dap-1 0x1.a465db564b89dp-1 0x1.38e650bdb8b1fp-2 -0x1.662a068066b21p-2
    -0x1.ac7010c101a8dp-1 -0x1.db4d2a2500e36p-1 -0x1.2b0cf7c8a5ab1p-1 0x1.03664de0615d3p-5 0x1.41c7f3794e2a3p-1
    0x1.da7b0e99e6916p-1
"""


def arrays() -> dict[str, np.ndarray]:
    """Return arrays by formula: they must not depend on a random generator's version."""
    ramp = np.arange(600, dtype=np.float64)
    wave = np.sin(ramp * 0.7) * np.exp(-ramp / 300)
    wave[:21] = list(map(float.fromhex, FIRST.split()))
    return {
        "layer.weight": wave.reshape(20, 30).astype(np.float32),
        "layer.bias": wave[:20].astype(np.float32),
        "half.weight": wave[:60].reshape(3, 4, 5).astype(np.float16),
        "brain": wave[:33].astype(ml_dtypes.bfloat16),
        "tiny": wave[:9].astype(ml_dtypes.float8_e4m3fn),
        "double": wave[:21],
        "count": np.array(123456789),
        "mask": wave[:50] > 0,
        "complex": (wave[:10] + 1j * wave[10:20]).astype(np.complex64),
        "special": np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40], np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "copy": wave.reshape(20, 30).astype(np.float32),
    }


def matrices() -> dict[str, np.ndarray]:
    """Return matrices by formula whose rows and columns are of different scales: the entropy codec uses contexts."""
    place = np.arange(3000)
    share = place * 0.6180339887498949 % 1
    sizes = -np.log1p(-share) * np.where(place * 0.41421356237 % 1 < 0.5, -1, 1)
    scales = np.exp2(3 * np.sin(np.arange(60) * 1.3)[:, None] + 2 * np.cos(np.arange(50) * 2.1))
    return {
        "weight": (sizes.reshape(60, 50) * scales * 0.02).astype(np.float32),
        "conv": (sizes.reshape(50, 60).T * scales * 0.02).astype(np.float32).reshape(60, 5, 5, 2),
        "bias": (sizes[:60] * 0.03).astype(np.float32),
    }


def low_matrices() -> dict[str, np.ndarray]:
    """Return small matrices of rank 2, by formula, among them a vector and one of four axes."""
    rows, columns = np.arange(30.0), np.arange(24.0)
    x = np.outer(np.sin(rows), np.cos(columns * 0.3)) + np.outer(np.cos(rows * 0.9), np.sin(columns)) * 0.3
    found = {f"{i}.weight": ((i + 1) * 0.2 * x[: 30 - i]).astype(np.float32) for i in range(4)}
    return {**found, "conv": x.reshape(30, 6, 2, 2).astype(np.float32), "bias": x[0].astype(np.float32)}


def variances() -> dict[str, np.ndarray]:
    """Return a layer with variances that are positive throughout, and were others before."""
    place = np.arange(40.0)
    return {
        "weight": np.sin(place).reshape(8, 5).astype(np.float32),
        "var": (0.3 + 0.2 * np.sin(place)).astype(np.float32),
        "half.var": (0.3 + 0.2 * np.cos(place)).astype(np.float16),
        "bias": np.cos(place).astype(np.float32),
    }


def arrays_of(name: str) -> dict[str, np.ndarray]:
    """Return what the bundle of this name holds."""
    others = {"contexts": matrices, "joint": low_matrices, "positive": variances}
    return next((make for part, make in others.items() if part in name), arrays)()


def bases_of(name: str) -> dict[str, np.ndarray]:
    """Return the references of the bundle of this name."""
    if "positive" in name:
        return {
            key: (x * np.linspace(0.25, 2, x.size).reshape(x.shape)).astype(x.dtype) for key, x in variances().items()
        }
    if "contexts" not in name:
        return bases()
    moved = {key: np.rint(x * 40).astype(np.int32) for key, x in matrices().items()}
    return {key: (x.view(np.int32) + moved[key]).view(np.float32) for key, x in matrices().items()}


def bases() -> dict[str, np.ndarray]:
    """Return the references of the bundles that code differences."""
    with np.errstate(invalid="ignore"):
        return {key: (x * np.asarray(0.875).astype(x.dtype)).astype(x.dtype) for key, x in arrays().items()}


def main() -> None:
    for name, codec in BUNDLES.items():
        bases = bases_of(name) if "delta" in codec else None
        _write(HERE / f"{name}.fpb", pack(arrays_of(name), codec, bases=bases, by_schema="bundle-2" in name))
    for half in (True, False):
        records: list[dict[str, Any]] = []
        latent = {"z": arrays()["layer.weight"].reshape(1, 4, 10, 15)}
        (chunk,) = LatentChunks().latent_packer(latent, 0, records, convert_float16=half)
        name = f"latn-f{16 if half else 32}"
        _write(HERE / f"{name}.bin", chunk)
        _write(HERE / f"{name}.json", json.dumps(records, indent=1).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    if not path.exists():
        path.write_bytes(data)


if __name__ == "__main__":
    main()
