"""Exact differences: rounds of real federated training on digits, beside pcodec and ZipNN on the same integers."""

import numpy as np
import torch
import zfpy
import zipnn
from pcodec import ChunkConfig, standalone

from flowerpress import Spec, parse
from flowerpress.apps import classify
from flowerpress.apps.data import Partitioning, client_images
from flowerpress.apps.models import model_for
from flowerpress.codecs.intdelta import IntDelta
from tests.benchmarks.timing import claim, console, interleaved, ratio, speed, table

ROUNDS = 6


def rounds() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (model that the server sent, model that the first client made of it), flat, for some rounds."""
    torch.set_num_threads(1)
    parts = [client_images(Partitioning("digits", "dirichlet", 0.5, 1, 4), i) for i in range(4)]
    model = model_for("cnn", parts[0], 0)
    state = {key: x.clone() for key, x in model.state_dict().items()}
    found = []
    for number in range(ROUNDS):
        replies = []
        for i, images in enumerate(parts):
            model.load_state_dict(state)
            classify.train(model, images, epochs=1, batch_size=32, learning_rate=0.05, seed=10 * number + i)
            replies.append({key: x.clone() for key, x in model.state_dict().items()})
        found.append((flat(state), flat(replies[0])))
        state = {key: sum(r[key].double() for r in replies).div(4).to(x.dtype) for key, x in state.items()}
    return found


def flat(state: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([x.numpy().ravel() for x in state.values() if x.dtype == torch.float32])


def main() -> None:
    shown = table(
        "A client's model against the server's, exactly: ratio", "round", "whole", "intdelta", "pcodec 8", "ZipNN"
    )
    pipeline, whole = parse("intdelta | zstd"), parse("zstd")
    for number, (base, x) in enumerate(rounds()):
        spec = Spec.of(x, "x", base)
        integers = np.asarray(IntDelta().encode(x, spec))
        sizes = [
            len(whole.encode(x, spec)),
            len(pipeline.encode(x, spec)),
            len(standalone.simple_compress(integers.view(np.uint32), ChunkConfig(compression_level=8))),
            len(zipnn.ZipNN(bytearray_dtype="float32", input_format="byte").compress(integers.tobytes())),
        ]
        shown.add_row(str(number + 1), *(f"{x.nbytes / size:.4f}" for size in sizes))
        claim(f"round {number + 1}: ratio against the best of pcodec and ZipNN", min(sizes[2:]) / sizes[1], least=0.98)
    console.print(shown)
    x, base = (np.tile(a, 6)[: 1 << 20] for a in (x, base))
    spec, view = Spec.of(x, "x", base), x.reshape(-1, 4)
    y, stream = bytes(pipeline.encode(x, spec)), zfpy.compress_numpy(view)
    encoding = interleaved({"intdelta": lambda: pipeline.encode(x, spec), "zfp": lambda: zfpy.compress_numpy(view)})
    decoding = interleaved({"intdelta": lambda: pipeline.decode(y, spec), "zfp": lambda: zfpy.decompress_numpy(stream)})
    for what, seconds in (("encode", encoding), ("decode", decoding)):
        console.print(
            f"{what}: intdelta {speed(x.nbytes, seconds['intdelta'])} MB/s, zfp {speed(x.nbytes, seconds['zfp'])}"
        )
    claim("encode, times zfp reversible", ratio(encoding["zfp"], encoding["intdelta"]), least=4.0)
    claim("decode, times zfp reversible", ratio(decoding["zfp"], decoding["intdelta"]), least=10.0)


if __name__ == "__main__":
    main()
