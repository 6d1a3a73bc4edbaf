"""Latent extraction: its speed beside a bare loop, its memory, and which codec suits latents.

1. Images per second of `model_latents_extract` over those of a bare loop of the same model over the same loader.
2. Peak memory of `main` with 2,000 and with 20,000 images, each in a process of its own.
3. Bits per value of latents at equal largest error, the same for all: relative to their range, 1% and 0.1%; and without
   loss. Latents are feature maps and vectors of a CNN trained on the digits, and maps of a smooth field.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zfpy

from flowerpress import Bundle, ChunkError, ConfigError, pack
from flowerpress.apps import inprocess
from flowerpress.apps.config import Config
from flowerpress.apps.data import test_images
from flowerpress.apps.encoders import Digits
from flowerpress.apps.latents import with_weights
from flowerpress.apps.runconfig import defaults
from flowerpress.extraction import build_loader, model_latents_extract
from flowerpress.extraction.resnet import SupConResNet
from tests.benchmarks.timing import claim, console, interleaved, ratio, table

ROOT = Path(__file__).resolve().parents[2]
CODECS = ("zfp(tolerance={})", "quantize(bound={}) | entropy", "quantize(bound={}) | bitpack | zstd")
LOSSLESS = ("zstd", "zfp", "auto()")
FEW, MANY = 2_000, 20_000


def main() -> None:
    if sys.argv[1:2] == ["peak"]:
        print(json.dumps(peak(Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        speed(Path(folder))
        memory(Path(folder))
        codecs(Path(folder))


def speed(folder: Path) -> None:
    """Print images per second beside a bare loop."""
    path, model = folder / "speed.h5", SupConResNet("resnet18", 128).eval()
    write(path, 96, 32)
    _, loader = build_loader(path, "train", 32, 1)
    opt: Any = type("Options", (), {})()

    def bare() -> Any:
        with torch.no_grad():
            return np.concatenate([model(images).numpy() for images, _ in loader])

    def ours() -> Any:
        return model_latents_extract(opt, path, "", in_loader=loader, partitions=("train",), model=model)["train"]

    assert np.array_equal(bare(), ours())
    seconds = interleaved({"bare": bare, "ours": ours}, turns=7)
    claim("images per second, of a bare loop's", ratio(seconds["bare"], seconds["ours"]), least=0.95)


def memory(folder: Path) -> None:
    """Print the peak of memory with few and with many images."""
    peaks = []
    for count in (FEW, MANY):
        place = folder / str(count)
        place.mkdir()
        write(place / "a_preproc.h5", count, 32)
        command = [sys.executable, "-W", "ignore", __file__, "peak", str(place)]
        peaks.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    console.print(f"peak memory of main: {peaks[0]:,.0f} MB with {FEW:,} images, {peaks[1]:,.0f} MB with {MANY:,}")
    claim("the one over the other", peaks[1] / peaks[0], most=1.05)


def peak(place: Path) -> float:
    """Extract the latents of a file with a small encoder; return this process's largest resident set, in MB."""
    import resource

    from flowerpress.extraction import latents

    torch.set_num_threads(1)
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, 4), torch.nn.Flatten(), torch.nn.Linear(392, 64))
    torch.save({"model": small.state_dict()}, place / "last.pth")
    options = {"model_folder": ".", "latents_folder": "out", "s3_outdir": str(place), "batch_size_valid": 64}
    (place / "opts.json").write_text(json.dumps({**options, "ssl_model": "resnet18"}))
    latents.Encoder.of = classmethod(lambda cls, *_: cls(small))  # type: ignore[method-assign,assignment]
    latents.main(place / "opts.json", [str(place / "a_preproc.h5")])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def write(path: Path, count: int, side: int) -> None:
    """Write images by chance."""
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("train", (count, 1, side, side), "f4", chunks=(64, 1, side, side))
        for start in range(0, count, 500):
            stored[start : start + 500] = np.random.default_rng(start).normal(size=stored[start : start + 500].shape)


def codecs(folder: Path) -> None:
    """Print bits per value."""
    for name, x in latents_of(folder).items():
        shown = table(f"{name}, {list(x.shape)}: bits per value", "pipeline", "no loss", "0.1%", "1%")
        span = float(x.max() - x.min())
        for codec in CODECS:
            shown.add_row(codec, "", *(bits(x, codec.format(share * span), share * span) for share in (1e-3, 1e-2)))
        shown.add_row("bare zfpy, native shape", "", *(native(x, share * span) for share in (1e-3, 1e-2)))
        for codec in LOSSLESS:
            shown.add_row(codec, bits(x, codec, 0.0), "", "")
        console.print(shown)


def latents_of(folder: Path) -> dict[str, np.ndarray]:
    """Return feature maps and vectors of digits, and maps of a smooth field."""
    config = {**defaults(ROOT), "num-server-rounds": 5}
    inprocess.run(config, clients=4, folder=folder / "run")
    model = with_weights(Config.read({**config, "encoder": str(folder / "run" / "model.fpb")}))
    assert isinstance(model, Digits)
    pixels = torch.from_numpy(test_images("digits", 2026, 0).pixels)
    with torch.no_grad():
        first = torch.relu(model.norm1(model.conv1(pixels)))
        second = model.pool(torch.relu(model.norm2(model.conv2(first))))
        vectors = model(pixels.expand(-1, 3, -1, -1))
        noise = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        smooth = torch.nn.functional.interpolate(noise, (32, 32), mode="bicubic")
    maps = {"maps, first layer": first, "maps, second layer": second, "vectors": vectors, "smooth maps": smooth}
    return {name: x.numpy() for name, x in maps.items()}


def bits(x: np.ndarray, codec: str, most: float) -> str:
    """Return the bits per value that a pipeline takes, after a look at the error."""
    try:
        bundle = pack({"x": x}, codec)
        error = float(abs(Bundle(bundle)["x"] - x).max())
    except (ChunkError, ConfigError) as problem:
        return str(problem)[:20]
    assert error <= most, (codec, error, most)
    return f"{8 * len(bundle) / x.size:.2f}"


def native(x: np.ndarray, most: float) -> str:
    """Return the bits per value of bare zfpy, in the better of two shapes, with the tolerance that keeps a bound."""
    found = []
    for y in (x, x.reshape(-1, *x.shape[2:])) if x.ndim == 4 else (x,):
        tolerance = 4 * most
        while abs(zfpy.decompress_numpy(coded := zfpy.compress_numpy(y, tolerance=tolerance)) - y).max() > most:
            tolerance /= 1.2
        found.append(8 * len(coded) / x.size)
    return f"{min(found):.2f}"


if __name__ == "__main__":
    main()
