"""Plans in a record: what takes their place, what travels of them, and in which order."""

import msgspec
import numpy as np
import pytest
import torch

from flowerpress import Bundle, ChunkError, ConfigError, pack
from flowerpress.chunks.pack import HEAD, tail
from flowerpress.codecs.dtypes import to_tensor
from tests.codecs.updates import base, update

PLANS = [
    "budget(ratio=70)",
    "budget(error=0.5)",
    "budget(lowrank | entropy, ratio=70)",
    "best(budget(ratio=70), budget(lowrank | entropy, ratio=70))",
    "auto",
    "auto(zstd, budget(bits=4))",
    "sparse(keep=0.02, whole=true) | nonzero | zstd",
    "sparse(keep=0.05, whole=true) | budget(ratio=120)",
    "head* = sparse(keep=0.01, whole=true) | nonzero; *.bias = auto; *.weight = budget(ratio=60); * = zstd",
]


@pytest.mark.parametrize("text", PLANS)
def test_bundles_name_no_plan_and_read_like_any_other(text: str) -> None:
    arrays = update(31)
    bundle = Bundle(pack(arrays, text, workers=1))
    assert all(pipeline.settled for pipeline in bundle.layout.pipelines)
    assert not any(word in str(p) for p in bundle.layout.pipelines for word in ("budget", "best", "auto", "whole"))
    found = bundle.read_all()
    for key, x in arrays.items():
        assert (found[key].dtype, found[key].shape) == (x.dtype, x.shape)
        assert found[key].tobytes() == bundle[key].tobytes()
        assert x.dtype == np.float32 or found[key].tobytes() == x.tobytes()
    assert list(bundle) == list(arrays)


@pytest.mark.parametrize("text", PLANS)
def test_bytes_do_not_depend_on_workers_or_on_what_is_kept(text: str) -> None:
    arrays = update(32)
    one, kept = pack(arrays, text, workers=1), dict(arrays)
    assert pack(kept, text, workers=4, keep_input=False) == one
    assert kept == {}


@pytest.mark.parametrize("text", [text for text in PLANS if "lowrank" not in text])
def test_tensors_give_the_bytes_of_arrays(text: str) -> None:
    arrays = update(33)
    tensors = {k: to_tensor(x) if x.ndim else torch.tensor(int(x)) for k, x in arrays.items()}
    tensors["fc.weight"].requires_grad_()
    tensors["embed.weight"] = tensors["embed.weight"].T.contiguous().T
    assert pack(tensors, text, workers=1) == pack(arrays, text, workers=1)


def test_layouts_behind_a_difference() -> None:
    bases = base(1)
    arrays = {k: (x + bases[k] if k in bases else x) for k, x in update(34).items()}
    awkward = {
        k: (np.asfortranarray(x).astype(x.dtype.newbyteorder(">")) if k in bases else x) for k, x in arrays.items()
    }
    for text in ("delta | budget(ratio=70)", "delta | sparse(keep=0.1, whole=true) | nonzero"):
        assert pack(awkward, text, bases=bases) == pack(arrays, text, bases=bases)
    tensors = {k: to_tensor(x).requires_grad_(k in bases) for k, x in arrays.items() if x.ndim}
    arrays = {k: arrays[k] for k in tensors}
    held = {k: to_tensor(x) for k, x in bases.items()}
    assert pack(tensors, "delta | budget(ratio=70)", bases=held) == pack(
        arrays, "delta | budget(ratio=70)", bases=bases
    )


def test_stages_before_and_behind_a_plan_stay() -> None:
    bases = base(2)
    arrays = {k: x + bases[k] for k, x in update(35).items() if k in bases}
    bundle = Bundle(pack(arrays, "delta | sparse(keep=0.1, whole=true) | nonzero | zstd", bases=bases))
    (text,) = {str(p) for p in bundle.layout.pipelines}
    assert text.startswith("delta | sparse(above=")
    assert text.endswith(") | nonzero | zstd")
    bundle = Bundle(pack(arrays, "delta | budget(ratio=50) | zstd", bases=bases))
    assert any(str(p).endswith("| entropy | zstd") for p in bundle.layout.pipelines)
    assert bundle.nbytes <= sum(x.nbytes for x in arrays.values()) / 50


def test_two_plans_in_one_pipeline_are_settled_from_left_to_right() -> None:
    arrays = {k: x for k, x in update(36).items() if x.dtype == np.float32}
    bundle = Bundle(pack(arrays, "sparse(keep=0.05, whole=true) | budget(ratio=100)"))
    size = sum(x.size for x in arrays.values())
    assert sum(np.count_nonzero(bundle[k]) for k in arrays) <= np.ceil(0.05 * size)
    assert 0.9 * size * 32 / 8 / 100 <= bundle.nbytes <= size * 4 / 100


def test_a_failed_plan_removes_nothing() -> None:
    arrays = update(37)
    with pytest.raises(ConfigError):
        pack(arrays, "*.bias = auto; * = budget(bytes=50)", keep_input=False)
    assert list(arrays) == list(update(37))


@pytest.mark.parametrize(
    "plan",
    [
        "budget(bits=1.0)",
        "best(raw, planes)",
        "auto",
        "auto(raw)",
        "sparse(keep=0.5, whole=true) | nonzero",
        "delta | budget(bits=1.0)",
        "budget(best(raw, raw) | raw, bits=1)",
    ],
)
def test_a_manifest_that_names_a_plan_is_refused(plan: str) -> None:
    data = pack({"x": np.ones(300, np.float32)}, "raw")
    bundle = Bundle(data)
    (chunk,) = bundle.layout.chunks
    fields = [
        [["x", "float32", [300]]],
        [],
        [plan],
        [[0, [0], 0, 300, chunk.header, chunk.payload, chunk.digest]],
    ]
    manifest = msgspec.msgpack.encode(fields)
    forged = data[: len(HEAD) + chunk.size] + manifest + tail(manifest)
    with pytest.raises(ChunkError):
        Bundle(forged)["x"]
