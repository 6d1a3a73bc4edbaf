"""A codec trained across clients, beside the pipelines that need no training: ``make train-codec``.

Everything runs in Flower's simulation engine with ten clients. A CNN of digits is trained first; then, on the feature
maps that it makes of each client's images, a learned codec for each of a few weights of the distortion. Features of
images that nobody trained on say how many bits each codec takes at which accuracy of the network's own head. At last
the clients send all of their features with a trained codec, and the server reads them.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from flowerpress import Spec, pack, parse
from flowerpress.apps import launch
from flowerpress.apps.config import Config
from flowerpress.apps.data import Images, Partitioning, client_images, test_images
from flowerpress.apps.encoders import DigitsMaps
from flowerpress.apps.gathered import ZARR
from flowerpress.apps.latents import features_of, with_weights
from flowerpress.apps.runconfig import defaults
from flowerpress.apps.train_codec import FILE
from flowerpress.arrays.files import arrays_of_file
from tests.benchmarks.extract_digits import ROOT, simulated, write_images
from tests.benchmarks.timing import claim, console, table

CLIENTS = 10
WEIGHTS = (1.0, 4.0)  # of the distortion
TRAINING = {"num-server-rounds": 10, "local-epochs": 10, "batch-size": 16, "learning-rate": 0.002, "head-weight": 0.3}
PEERS = {
    "quantize | entropy": ("quantize(step={}) | entropy", (0.5, 1.0, 1.5, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0)),
    "zfp": ("zfp(tolerance={})", (0.5, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0)),
    "lowrank | entropy": ("lowrank(step={}) | entropy", (0.3, 0.6, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)),
}
LOSS = 0.005  # of accuracy, that counts as none: two of 359 images


@dataclass(frozen=True)
class Point:
    """What a pipeline came to: bits per image, accuracy of the head, and mean squared error."""

    pipeline: str
    bits: float
    accuracy: float
    error: float


def main() -> None:
    """Do it all; results stay in a folder below ``runs``."""
    folder = launch.new_folder(ROOT / "runs")
    console.print(f"training a network: {CLIENTS} clients in the simulation engine")
    trained = simulated(folder / "network", CLIENTS, {"num-server-rounds": 10})
    console.print(f"accuracy {trained['accuracy']:.2%}")
    options = {
        "encoder": str(folder / "network" / "model.fpb"),
        "encoder-model": "flowerpress.apps.encoders:digits_maps",
    }
    codecs = list(train_codecs(folder, options))
    held_out = HeldOut(options)
    peers = {name: [held_out.point(text.format(step)) for step in steps] for name, (text, steps) in PEERS.items()}
    learned = [held_out.point(f"learned(weights='{path}')") for path in codecs]
    show(held_out, peers, learned)
    draw(folder / "rate-accuracy.png", held_out, peers, learned)
    best = min(
        (p for p in learned if p.accuracy >= held_out.accuracy - LOSS), key=lambda p: p.bits, default=learned[-1]
    )
    pays(codecs[learned.index(best)], best, compare(held_out, peers, best), held_out.features[0].nbytes)
    send(folder, options, codecs[learned.index(best)])
    console.print(f"plot: {folder / 'rate-accuracy.png'}")


def train_codecs(folder: Path, options: dict[str, Any]) -> Iterator[Path]:
    """Train a codec for each weight, federatedly; yield the files."""
    for weight in WEIGHTS:
        where = folder / f"codec-{weight:g}"
        console.print(f"training a codec: {CLIENTS} clients, weight of the distortion {weight:g}")
        config = {**options, **TRAINING, "task": "train-codec", "distortion-weight": weight}
        summary = simulated(where, CLIENTS, config)
        console.print(
            f"{summary['rate']:.4f} bits per value, mean squared error {summary['distortion']:.4f}; "
            f"{(summary['down-bytes'] + summary['up-bytes']) / 1e6:.1f} MB sent for "
            f"{(summary['down-raw-bytes'] + summary['up-raw-bytes']) / 1e6:.1f} MB, {summary['seconds']:.0f} s"
        )
        yield where / FILE


class HeldOut:
    """Features of images that nobody trained on, and the network's own head."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.config = Config.read({**defaults(ROOT), **options})
        images = test_images(self.config.dataset, self.config.seed, self.config.image_size)
        self.features, self.labels = features_of(images, self.config), images.labels
        model = with_weights(self.config).eval()
        assert isinstance(model, DigitsMaps)
        self.head = model.head
        self.accuracy = self.of(self.features, self.labels)

    @torch.no_grad()
    def of(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the accuracy of the head on features."""
        return float((self.head(torch.from_numpy(features)).argmax(1).numpy() == labels).mean())

    def point(self, text: str) -> Point:
        """Return what a pipeline makes of them, in one message."""
        spec, pipeline = Spec.of(self.features), parse(text)
        data = bytes(pipeline.encode(self.features, spec))
        found = pipeline.decode(data, spec)
        error = float(np.square(found - self.features).mean())
        return Point(text, 8 * len(data) / len(found), self.of(found, self.labels), error)


def show(held_out: HeldOut, peers: dict[str, list[Point]], learned: Sequence[Point]) -> None:
    """Print all points."""
    result = table(
        f"{len(held_out.labels)} held-out images, {held_out.features[0].size} values each; accuracy without loss "
        f"{held_out.accuracy:.2%}",
        *("pipeline", "bits per image", "accuracy", "mean squared error"),
    )
    named = {**peers, "learned": list(learned)}
    for name, points in named.items():
        for point in points:
            text = f"learned, weight {WEIGHTS[learned.index(point)]:g}" if name == "learned" else point.pipeline
            result.add_row(text, f"{point.bits:,.1f}", f"{point.accuracy:.2%}", f"{point.error:.4f}")
        result.add_section()
    console.print(result)


def compare(held_out: HeldOut, peers: dict[str, list[Point]], best: Point) -> Point:
    """Print how many times fewer bits the codec takes than each pipeline at no lower accuracy; return the next best."""
    console.print(f"learned: {best.bits:.1f} bits per image at {best.accuracy:.2%}")
    claim("its accuracy, beside that without loss", best.accuracy - held_out.accuracy, least=-LOSS)
    least = []
    for name, points in peers.items():
        equal = min((p for p in points if p.accuracy >= best.accuracy), key=lambda p: p.bits, default=None)
        if equal is None:
            console.print(f"{name}: never as accurate")
            continue
        least.append(equal)
        claim(f"bits of {equal.pipeline} ({equal.accuracy:.2%}), times as many", equal.bits / best.bits, least=1.0)
    return min(least, key=lambda p: p.bits)


def pays(path: Path, best: Point, peer: Point, raw: int) -> None:
    """Print what the weights take, and after how many features they have paid for themselves."""
    arrays = arrays_of_file(path)
    sizes = {name: len(pack(dict(arrays), name)) for name in ("raw", "lossless")}
    saved = (peer.bits - best.bits) / 8
    console.print(
        f"weights: {sizes['raw']:,} bytes, {sizes['lossless']:,} as sent; paid for after features of "
        f"{sizes['lossless'] / saved:,.0f} images beside {peer.pipeline}, "
        f"of {sizes['lossless'] / (raw - best.bits / 8):,.0f} beside raw ones"
    )


def draw(path: Path, held_out: HeldOut, peers: dict[str, list[Point]], learned: Sequence[Point]) -> None:
    """Draw accuracy against bits per image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in {**peers, "learned, trained by ten clients": list(learned)}.items():
        axes.plot([p.bits for p in points], [100 * p.accuracy for p in points], marker="o", label=name)
    axes.axhline(100 * held_out.accuracy, color="gray", linestyle=":", label="without loss")
    axes.set(xscale="log", xlabel="bits per image", ylabel="accuracy on held-out images (%)", ylim=(60, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def send(folder: Path, options: dict[str, Any], path: Path) -> None:
    """Let the clients send all of their features with a codec, and measure what the server reads."""
    console.print("sending features: each client its own, with the trained codec")
    images = write_images(folder, CLIENTS)
    codec = f"learned(weights='{path}')"
    summary = simulated(folder / "features", CLIENTS, {**options, **images, "task": "extract", "latent-codec": codec})
    group: Any = zarr.open_group(folder / "features" / ZARR, mode="r")
    features, held_out = group["latents"][...], HeldOut(options)
    partitioning = Partitioning.of(held_out.config, CLIENTS)
    parts: list[Images] = [client_images(partitioning, client) for client in range(CLIENTS)]
    labels = np.concatenate([part.labels for part in parts])
    plain = np.concatenate([features_of(part, held_out.config) for part in parts])
    sent, raw = summary["up-bytes"], summary["up-raw-bytes"]
    console.print(
        f"{len(features):,} images, {sent:,} bytes for {raw:,}: {8 * sent / len(features):.1f} bits per image, "
        f"{raw / sent:.0f}x"
    )
    read, whole = held_out.of(features, labels), held_out.of(plain, labels)
    console.print(f"accuracy of the head on what the server reads: {read:.2%}; without loss {whole:.2%}")


if __name__ == "__main__":
    sys.exit(main())
