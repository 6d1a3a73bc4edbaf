"""Learned codecs: what coding costs beside the network itself, and whether every stream decodes everywhere.

Give it ``codec.fpb`` and ``network/model.fpb`` of a run of ``make train-codec`` to code with what was trained there;
otherwise both are trained here, which takes two minutes.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from flowerpress import ChunkError
from flowerpress.apps import classify
from flowerpress.apps.codecs import small
from flowerpress.apps.data import Images, Partitioning, client_images, test_images
from flowerpress.apps.encoders import DigitsMaps
from flowerpress.apps.models import model_for
from flowerpress.arrays.files import arrays_of_file
from flowerpress.codecs.dtypes import to_host, to_tensor
from flowerpress.latent_codecs import VitUnionLatentCodec, rans_fast
from flowerpress.latent_codecs.cdf import gaussian_tables, scale_table
from flowerpress.latent_codecs.rans import Decoder, Encoder
from flowerpress.latent_codecs.training import Aim, finish, train
from tests.benchmarks.timing import claim, console, interleaved, ratio, table

IMAGES, BATCH = 500, 8
GRID = (4, 4)
SYMBOLS = 400_000  # of a plane of 320 x 1536 features


def main() -> None:
    """Print all of it."""
    torch.set_num_threads(1)
    times()
    coder_speed()
    codec, features = of_files(*map(Path, sys.argv[1:3])) if len(sys.argv) > 2 else trained_here()
    codec.eval()
    mismatches(codec, features)
    cost(codec, features)


def times() -> None:
    """Compare coding with the float32 network, at default sizes, on one thread."""
    torch.manual_seed(0)
    model, h = VitUnionLatentCodec().eval(), torch.randn(1, 257, 384)
    model.update()
    plain = VitUnionLatentCodec(exact=False).eval()
    plain.load_state_dict(model.state_dict())
    packed, floats = model.compress(h, (16, 16)), plain.compress(h, (16, 16))
    with torch.no_grad():
        seconds = interleaved(
            {
                "forward": lambda: model(h, (16, 16)),
                "compress": lambda: model.compress(h, (16, 16)),
                "decompress": lambda: model.decompress(**packed),
                "float compress": lambda: plain.compress(h, (16, 16)),
                "float decompress": lambda: plain.decompress(**floats),
            }
        )
    forward = seconds.pop("forward")
    result = table("(1, 257, 384), default sizes, one thread: times the float32 forward pass", "call", "ratio")
    for name, found in seconds.items():
        result.add_row(name, f"{ratio(found, forward):.2f}")
    console.print(result)
    claim("compress", ratio(seconds["compress"], forward), most=2.5)
    claim("decompress", ratio(seconds["decompress"], forward), most=2.0)


def coder_speed() -> None:
    """Print symbols per second of the range coder, plain and compiled, and check that the bytes are the same."""
    tables, rng = gaussian_tables(tuple(scale_table().tolist())), np.random.default_rng(0)
    rows = rng.integers(0, 64, SYMBOLS)
    symbols = np.rint(rng.normal(size=SYMBOLS) * scale_table().numpy()[rows]).astype(np.int64)
    many, streams = rans_fast.MANY, list[bytes]()

    def encode(least: int) -> None:
        rans_fast.MANY = least
        encoder = Encoder()
        encoder.put(symbols, rows, tables)
        streams.append(encoder.finish())

    def decode(least: int) -> None:
        rans_fast.MANY = least
        Decoder(streams[0]).get(rows, tables)

    calls = {"plain": SYMBOLS + 1, "compiled": 0}
    encoding = interleaved({name: lambda least=least: encode(least) for name, least in calls.items()}, 5)
    decoding = interleaved({name: lambda least=least: decode(least) for name, least in calls.items()}, 5)
    rans_fast.MANY = many
    result = table(f"{SYMBOLS:,} symbols: millions in a second", "loops", "encode", "decode")
    for name in calls:
        speeds = (SYMBOLS / sorted(s[name])[len(s[name]) // 2] / 1e6 for s in (encoding, decoding))
        result.add_row(name, *(f"{speed:.1f}" for speed in speeds))
    console.print(result)
    claim("streams of both that are the same", float(len(set(streams)) == 1), least=1.0)


def of_files(codec: Path, network: Path) -> tuple[VitUnionLatentCodec, torch.Tensor]:
    """Return a codec that was trained, and features of the network that it was trained for."""
    state = {key: to_tensor(to_host(x)) for key, x in arrays_of_file(codec).items()}
    maps = DigitsMaps()
    maps.load_state_dict({key: to_tensor(to_host(x)) for key, x in arrays_of_file(network).items()})
    return VitUnionLatentCodec.from_state_dict(state), features_of(maps, images())


def trained_here() -> tuple[VitUnionLatentCodec, torch.Tensor]:
    """Return a codec and features of a network, both trained on digits."""
    whole, maps = images(), DigitsMaps()
    network = model_for("cnn", whole, 0)
    classify.train(network, whole, epochs=5, batch_size=32, learning_rate=0.05, seed=0)
    maps.load_state_dict(network.state_dict())
    features = features_of(maps, whole)
    torch.manual_seed(0)
    codec = small(None)
    train(
        codec, features, epochs=25, batch_size=16, learning_rate=2e-3, aim=Aim(6.0), seed=0, grid=GRID, fall=(0.0, 1.0)
    )
    finish(codec)
    return codec, features


def images() -> Images:
    """Return five hundred digits: those that are for testing, and others."""
    test, rest = test_images("digits", 2026, 0), client_images(Partitioning("digits", "iid", 0.5, 2026, 1), 0)
    pixels, labels = np.concatenate([test.pixels, rest.pixels]), np.concatenate([test.labels, rest.labels])
    return Images(pixels[:IMAGES], labels[:IMAGES], test.classes)


@torch.no_grad()
def features_of(maps: DigitsMaps, whole: Images) -> torch.Tensor:
    """Return the feature maps of images, as tokens."""
    found: torch.Tensor = maps.eval()(torch.from_numpy(whole.pixels))
    return found.contiguous()


@contextmanager
def setting(threads: int, autocast: bool) -> Iterator[None]:
    """Run a block on so many threads, with or without bfloat16 around it."""
    torch.set_num_threads(threads)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            yield
    finally:
        torch.set_num_threads(1)


def mismatches(codec: VitUnionLatentCodec, features: torch.Tensor) -> None:
    """Code in one setting and decode in another; print how many images do not come back."""
    floats = VitUnionLatentCodec.from_state_dict(codec.state_dict()).eval()
    floats.exact = False
    cases = {
        "batches of 8, decoded singly": (BATCH, 1, (1, False), (1, False)),
        "singly, decoded in batches of 8": (1, BATCH, (1, False), (1, False)),
        "one thread, decoded on two": (BATCH, 1, (1, False), (2, False)),
        "bfloat16 around it, decoded in float32": (BATCH, 1, (2, True), (1, False)),
        "float32, decoded with bfloat16 around it": (1, BATCH, (1, False), (2, True)),
    }
    result = table(f"{len(features)} images, trained weights: lost", "coded", "exact", "float32 arithmetic")
    lost = 0
    for name, (encoded, decoded, before, after) in cases.items():
        found = [wrong(model, features, encoded, decoded, before, after) for model in (codec, floats)]
        lost += found[0]
        result.add_row(name, *map(str, found))
    if torch.cuda.is_available():
        found = [on_gpu(model, features) for model in (codec, floats)]
        lost += found[0]
        result.add_row("on a GPU, decoded on the CPU", *map(str, found))
    console.print(result)
    claim("images lost, of all", lost, most=0)


def wrong(
    model: VitUnionLatentCodec,
    features: torch.Tensor,
    encoded: int,
    decoded: int,
    before: tuple[int, bool],
    after: tuple[int, bool],
) -> int:
    """Return how many images are errors, or not what they should be."""
    with setting(*before):
        packed = [model.compress(part, GRID) for part in features.split(encoded)]
    y = [stream for lists in zip(*(p["strings"]["y"] for p in packed), strict=True) for stream in [sum(lists, [])]]  # noqa: RUF017
    z = sum((p["strings"]["z"][0] for p in packed), [])  # noqa: RUF017
    pstate = {**packed[0]["pstate"], "checksums": [c for p in packed for c in p["pstate"]["checksums"]]}
    lost = 0
    for start in range(0, len(features), decoded):
        part = slice(start, start + decoded)
        try:
            with setting(*after):
                found = model.decompress({"y": [streams[part] for streams in y], "z": [z[part]]}, pstate)["h_hat"]
        except ChunkError:
            lost += len(features[part])
        else:
            lost += int((~found.isfinite().flatten(1).all(1)).sum())
    return lost


def on_gpu(model: VitUnionLatentCodec, features: torch.Tensor) -> int:
    """Return how many images that a GPU coded a CPU cannot decode."""
    lost = 0
    for part in features.split(BATCH):
        packed = model.cuda().compress(part.cuda(), GRID)
        try:
            model.cpu().decompress(**packed)
        except ChunkError:
            lost += len(part)
    return lost


def cost(codec: VitUnionLatentCodec, features: torch.Tensor) -> None:
    """Print how many more bytes exact arithmetic takes than float32."""
    floats = VitUnionLatentCodec.from_state_dict(codec.state_dict()).eval()
    floats.exact = False
    sizes = []
    for model in (codec, floats):
        strings = model.compress(features, GRID)["strings"]
        sizes.append(sum(len(s) for lists in strings.values() for streams in lists for s in streams))
    console.print(f"{len(features)} images: {sizes[0]:,} bytes, {sizes[1]:,} with float32 arithmetic")
    claim("the one over the other", sizes[0] / sizes[1], most=1.001)


if __name__ == "__main__":
    main()
