"""Budgets: how near they come, whatever the record, and that they are never overdrawn."""

from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import Bundle, ChunkError, ConfigError, Spec, pack, parse
from flowerpress.codecs.budget import Budget, _Sample
from flowerpress.codecs.levels import entropy
from flowerpress.codecs.lowrank import LowRank
from flowerpress.codecs.quantize import Quantize
from tests.codecs.updates import base, update

LOWRANK = "lowrank | entropy"


def nbytes(arrays: dict[str, np.ndarray]) -> int:
    return sum(x.nbytes for x in arrays.values())


def size(arrays: dict[str, np.ndarray]) -> int:
    return sum(x.size for x in arrays.values())


def relative_error(found: Bundle, arrays: dict[str, np.ndarray], bases: dict[str, np.ndarray] | None = None) -> float:
    """Return the L2 error over the L2 norm of what was coded, floats only."""
    errors, norms = 0.0, 0.0
    for key, x in arrays.items():
        wide = x.astype(np.float64)
        if x.dtype.kind not in "iub" and x.ndim:
            errors += float(np.square(found[key].astype(np.float64) - wide).sum())
            norms += float(np.square(wide - (bases[key].astype(np.float64) if bases else 0)).sum())
        else:
            assert found[key].tobytes() == x.tobytes()
    return float(np.sqrt(errors / norms))


@pytest.mark.parametrize("ratio", [5, 20, 35, 60, 100, 150, 220, 300])
def test_ratios(ratio: float) -> None:
    arrays = update(1)
    data = pack(arrays, f"budget(ratio={ratio})")
    assert 0.98 <= len(data) / (nbytes(arrays) / ratio) <= 1
    assert relative_error(Bundle(data), arrays) < 1


@pytest.mark.parametrize("bits", [0.11, 0.3, 1.0, 2.5, 6.0])
def test_bits(bits: float) -> None:
    arrays = update(2)
    assert 0.98 <= len(pack(arrays, f"budget(bits={bits})")) / (size(arrays) * bits / 8) <= 1


@pytest.mark.parametrize("count", [3500, 10_000, 77_777, 400_000])
def test_bytes(count: int) -> None:
    assert 0.98 <= len(pack(update(3), f"budget(bytes={count})")) / count <= 1


@pytest.mark.parametrize("error", [0.01, 0.1, 0.3, 0.6, 0.9])
def test_errors(error: float) -> None:
    arrays = update(4)
    found = relative_error(Bundle(pack(arrays, f"budget(error={error})")), arrays)
    assert 0.98 * error <= found <= error * (1 + 1e-6)


@pytest.mark.parametrize("ratio", [40, 150])
@pytest.mark.parametrize("seed", range(3))
def test_low_rank(ratio: float, seed: int) -> None:
    arrays = update(seed)
    data = pack(arrays, f"budget({LOWRANK}, ratio={ratio})")
    assert 0.98 <= len(data) / (nbytes(arrays) / ratio) <= 1
    (stage,) = {s for p in Bundle(data).layout.pipelines for s in p.stages if isinstance(s, LowRank)}
    assert stage.rank == 16
    assert relative_error(Bundle(data), arrays) < 1


def test_low_rank_by_error() -> None:
    arrays = update(1)
    found = relative_error(Bundle(pack(arrays, f"budget({LOWRANK}, error=0.7)")), arrays)
    assert found <= 0.7 * (1 + 1e-6)


@pytest.mark.parametrize("text", ["budget(ratio=90)", f"budget({LOWRANK}, ratio=90)"])
def test_differences_to_a_reference(text: str) -> None:
    bases = base(1)
    arrays = {k: (x + bases[k] if x.dtype.kind == "f" else x) for k, x in update(1).items()}
    data = pack(arrays, f"delta | {text}", bases=bases)
    assert 0.98 <= len(data) / (nbytes(arrays) / 90) <= 1
    assert relative_error(Bundle(data, bases=bases), arrays, bases) < 1
    with pytest.raises(ChunkError, match="reference"):
        Bundle(data)["conv.weight"]


def test_an_error_is_relative_to_the_difference() -> None:
    bases = base(2)
    arrays = {k: (x + bases[k] if x.dtype.kind == "f" else x) for k, x in update(2).items()}
    found = relative_error(Bundle(pack(arrays, "delta | budget(error=0.2)", bases=bases), bases=bases), arrays, bases)
    assert 0.98 * 0.2 <= found <= 0.2 * (1 + 1e-4)


def test_arrays_without_a_reference_are_exact_and_paid_from_the_budget() -> None:
    bases = base(3)
    arrays = {k: (x + bases[k] if x.dtype.kind == "f" else x) for k, x in update(3).items()}
    del bases["fc.bias"]
    bases["head.bias"] = bases["head.bias"][:-1]
    data = pack(arrays, "delta | budget(ratio=20)", bases=bases)
    bundle = Bundle(data, bases=bases)
    assert 0.98 <= len(data) / (nbytes(arrays) / 20) <= 1
    for key in ("fc.bias", "head.bias"):
        assert bundle[key].tobytes() == arrays[key].tobytes()


def test_without_any_reference_nothing_is_lossy() -> None:
    arrays = update(3)
    bundle = Bundle(pack(arrays, "delta | budget(ratio=300)"))
    assert relative_error(bundle, arrays) == 0


def test_one_step_for_all_arrays() -> None:
    bundle = Bundle(pack(update(5), "budget(ratio=60)"))
    stages = [p.stages[0] for p in bundle.layout.pipelines if isinstance(p.stages[0], Quantize)]
    assert len(stages) == 1
    assert stages[0].zone == 0.6
    assert not any("budget" in str(p) for p in bundle.layout.pipelines)
    assert all(p.settled for p in bundle.layout.pipelines)


def test_a_template_keeps_what_else_it_says() -> None:
    arrays = update(5)
    bundle = Bundle(pack(arrays, "budget(quantize(step=1.0, zone=0.5, seed=3) | entropy | zstd, ratio=25)"))
    (lossy,) = [p for p in bundle.layout.pipelines if isinstance(p.stages[0], Quantize)]
    assert (lossy.stages[0].zone, lossy.stages[0].seed, len(lossy.stages)) == (0.5, 3, 3)
    assert 0.98 <= bundle.nbytes / (nbytes(arrays) / 25) <= 1
    raw = Bundle(pack(arrays, "budget(quantize(step=1.0, zone=0.5) | raw | zstd, ratio=12)"))
    assert 0.98 <= raw.nbytes / (nbytes(arrays) / 12) <= 1


@pytest.mark.parametrize("text", ["budget(bits=1e-6)", "budget(bytes=60)", "budget(ratio=1000000)"])
def test_what_cannot_be_met(text: str) -> None:
    arrays = update(6)
    with pytest.raises(ConfigError, match="cannot be met"):
        pack(arrays, text, keep_input=False)
    assert len(arrays) == len(update(6))


@pytest.mark.parametrize("error", [1e-12, 1e-9, 1e-7])
def test_an_error_that_only_exact_values_meet(error: float) -> None:
    arrays = {"w": np.random.default_rng(0).standard_normal((100, 100)).astype(np.float32)}
    try:
        bundle = Bundle(pack(arrays, f"budget(error={error})"))
    except ConfigError:
        return
    assert relative_error(bundle, arrays) <= error


def test_exact_arrays_may_take_all_of_it() -> None:
    noise = np.random.default_rng(0).integers(0, 2**62, 2000)
    with pytest.raises(ConfigError, match="cannot be met"):
        pack({"w": np.ones((30, 20), np.float32), "n": noise}, "budget(bytes=15000)")


def test_zeros() -> None:
    arrays = {"w": np.zeros((300, 200), np.float32), "b": np.zeros(200, np.float32)}
    for text in ("bits=0.1", "bytes=1000", "ratio=100", "error=0.5", f"{LOWRANK}, ratio=100"):
        bundle = Bundle(pack(arrays, f"budget({text})"))
        assert bundle.nbytes < 300
        assert all(bundle[key].tobytes() == x.tobytes() for key, x in arrays.items())


def test_zeros_may_take_more_than_the_budget_too() -> None:
    with pytest.raises(ConfigError, match="cannot be met"):
        pack({"w": np.zeros((300, 200), np.float32)}, "budget(bytes=10)")


def test_nothing_to_code() -> None:
    for arrays in ({}, {"n": np.arange(3)}, {"e": np.zeros((0, 3), np.float32)}, {"s": np.array(2.5)}):
        bundle = Bundle(pack(arrays, "budget(ratio=100)"))
        assert all(bundle[key].tobytes() == x.tobytes() for key, x in arrays.items())


def test_a_policy_of_yours_may_give_it_empty_arrays_and_scalars() -> None:
    arrays = {"w": update(1)["fc.weight"], "e": np.zeros((0, 3), np.float32), "s": np.array(2.5, np.float32)}
    bundle = Bundle(pack(arrays, lambda spec: parse("budget(ratio=20)")))
    assert bundle["e"].shape == (0, 3)
    assert bundle.nbytes <= nbytes(arrays) / 20


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        hnp.arrays(
            np.float32,
            hnp.array_shapes(min_dims=0, max_dims=3, max_side=7),
            elements=st.floats(-(2.0**30), 2.0**30, width=32, allow_subnormal=False),
        ),
        max_size=4,
    ),
    st.one_of(
        st.floats(0.05, 60).map(lambda bits: {"bits": bits}),
        st.integers(1, 600).map(lambda count: {"bytes": count}),
        st.floats(0.3, 9).map(lambda ratio: {"ratio": ratio}),
    ),
    st.sampled_from(["quantize(step=1.0, zone=0.6) | entropy", LOWRANK]),
)
def test_never_over_a_budget_of_any_record(found: list[np.ndarray], target: dict[str, float], template: str) -> None:
    arrays = {str(i): x for i, x in enumerate(found)}
    plan = Budget(pipelines=(parse(template),), **target)  # type: ignore[arg-type]
    lossy = any(x.ndim and x.size for x in found)
    try:
        data = pack(arrays, plan)
    except ConfigError:
        return
    most = {"bits": size(arrays) / 8, "bytes": 1, "ratio": nbytes(arrays)}
    (name, value) = next(iter(target.items()))
    assert not lossy or len(data) <= (most[name] / value if name == "ratio" else most[name] * value)
    assert all(Bundle(data)[key].shape == x.shape for key, x in arrays.items())


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=20), elements=st.floats(-99, 99, width=16)),
    st.floats(0.001, 0.999),
)
def test_never_over_an_error(x: np.ndarray, error: float) -> None:
    found = Bundle(pack({"x": x}, f"budget(error={error})"))["x"]
    assert np.linalg.norm(found.astype(np.float64) - x) <= error * np.linalg.norm(x.astype(np.float64)) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("text", ["budget(ratio=30)", f"budget({LOWRANK}, ratio=60)"])
def test_other_floats(dtype: str, text: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = {k: (x.astype(kind) if x.dtype == np.float32 else x) for k, x in update(7).items()}
    ratio = float(text.split("=")[-1].rstrip(")")) * kind.itemsize / 4
    data = pack(arrays, text.replace(text.split("=")[-1], f"{ratio})"))
    assert 0.98 <= len(data) / (nbytes(arrays) / ratio) <= 1
    assert {k: (y.dtype, y.shape) for k, y in Bundle(data).items()} == {
        k: (x.dtype, x.shape) for k, x in arrays.items()
    }
    assert relative_error(Bundle(data), arrays) < 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_errors_of_other_floats(dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    arrays = {k: (x.astype(kind) if x.dtype == np.float32 else x) for k, x in update(7).items()}
    found = relative_error(Bundle(pack(arrays, "budget(error=0.25)")), arrays)
    assert 0.98 * 0.25 <= found <= 0.25 * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-10, 1e10, 1e30, 1e36])
def test_any_scale(scale: float) -> None:
    arrays = {k: (x * np.float32(scale) if x.dtype == np.float32 else x) for k, x in update(8).items()}
    assert 0.97 <= len(pack(arrays, "budget(ratio=50)")) / (nbytes(arrays) / 50) <= 1
    found = Bundle(pack(arrays, "budget(error=0.3)"))
    wide = {k: (x / scale if x.dtype == np.float32 else x) for k, x in arrays.items()}
    errors = sum(
        np.square(found[k].astype(np.float64) / scale - wide[k].astype(np.float64)).sum()
        for k in wide
        if arrays[k].dtype == np.float32
    )
    norms = sum(np.square(x.astype(np.float64)).sum() for x in wide.values() if x.dtype.kind == "f")
    assert 0.97 * 0.3 <= np.sqrt(errors / norms) <= 0.3 * (1 + 1e-4)


@pytest.mark.parametrize("scale", [1e-200, 1e-60, 1e60, 1e200])
def test_scales_that_only_float64_holds(scale: float) -> None:
    x = np.random.default_rng(0).standard_normal((200, 150)) * scale
    try:
        bundle = Bundle(pack({"x": x}, "budget(error=0.3)"))
    except ConfigError:
        return
    assert np.linalg.norm(bundle["x"] / scale - x / scale) <= 0.3 * np.linalg.norm(x / scale) * (1 + 1e-6)


@pytest.mark.parametrize("text", ["budget(ratio=15)", "budget(error=0.2)", f"budget({LOWRANK}, ratio=15)"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_exact_beside_others(text: str, value: float) -> None:
    arrays = update(9)
    arrays["fc.bias"][3] = value
    bundle = Bundle(pack(arrays, text))
    assert bundle["fc.bias"].tobytes() == arrays["fc.bias"].tobytes()
    others = {k: x for k, x in arrays.items() if k != "fc.bias"}
    if "error" in text:
        assert relative_error(bundle, others) <= 0.2 * (1 + 1e-6)
    else:
        assert bundle.nbytes <= nbytes(arrays) / 15
    assert relative_error(bundle, others) > 0


def test_a_policy_pays_all_rules_from_the_budget() -> None:
    arrays = update(10)
    data = pack(arrays, "*.bias = raw; * = budget(ratio=50)")
    assert 0.98 <= len(data) / (nbytes(arrays) / 50) <= 1
    bundle = Bundle(data)
    for key in arrays:
        if key.endswith("bias"):
            assert bundle[key].tobytes() == arrays[key].tobytes()


def test_two_budgets_leave_each_other_aside() -> None:
    arrays = {k: x for k, x in update(11).items() if k.startswith(("conv", "fc", "norm", "step", "head.mask"))}
    bundle = Bundle(pack(arrays, "conv* = budget(ratio=20); fc* = budget(ratio=100); * = zstd"))
    exact = {k: x for k, x in arrays.items() if not k.startswith(("conv", "fc"))}
    for start, ratio in (("conv", 20), ("fc", 100)):
        mine = {k: x for k, x in arrays.items() if k.startswith(start)}
        target = nbytes({**mine, **exact}) / ratio
        paid = sum(bundle.encoded_bytes(key) for key in {**mine, **exact})
        assert target - 500 < paid < target  # the manifest takes the rest
    assert all(bundle[key].tobytes() == x.tobytes() for key, x in exact.items())
    steps = {s.step for p in bundle.layout.pipelines for s in p.stages if isinstance(s, Quantize)}
    assert len(steps) == 2


@pytest.mark.parametrize(
    "text", ["budget(ratio=70)", "budget(error=0.4)", f"budget({LOWRANK}, ratio=70)", "* = budget(bits=0.5)"]
)
def test_equal_input_gives_equal_bytes(text: str) -> None:
    arrays = {f"{i}.{k}": x for i in range(4) for k, x in update(20 + i).items()}
    assert nbytes(arrays) > 4 << 20
    one = pack(arrays, text, workers=1)
    assert one == pack({k: x.copy() for k, x in arrays.items()}, text, workers=4)


def test_keep_input() -> None:
    arrays, kept = update(12), update(12)
    assert pack(kept, "budget(ratio=80)", keep_input=False) == pack(arrays, "budget(ratio=80)")
    assert kept == {}


def test_repeated_arrays_are_paid_once() -> None:
    arrays = update(13)
    arrays["tied"] = arrays["fc.weight"].copy()
    bundle = Bundle(pack(arrays, "budget(ratio=100)"))
    assert 0.98 <= bundle.nbytes / (nbytes(arrays) / 100) <= 1
    assert bundle["tied"].tobytes() == bundle["fc.weight"].tobytes()


@pytest.mark.parametrize("text", ["bits=0.1", "ratio=320"])
def test_small_records_may_take_the_least(text: str) -> None:
    small = {"w": base(1)["fc.weight"].ravel()[:600].reshape(20, 30)}
    with pytest.raises(ConfigError, match="cannot be met"):
        pack(dict(small), f"budget({text})")
    assert 0.9 * 500 <= len(pack(dict(small), f"budget({text}, least=500)")) <= 500
    large = update(1)
    assert pack(dict(large), f"budget({text}, least=500)") == pack(dict(large), f"budget({text})")


class Given:
    """A record of arrays that lie there, as far as a sample looks at it."""

    def __init__(self, *found: np.ndarray) -> None:
        self.found, self.size = found, sum(x.size for x in found)

    def arrays(self) -> Iterator[np.ndarray]:
        return iter(self.found)


def plainly(step: float, arrays: Sequence[np.ndarray], most: float) -> tuple[float, float]:
    """Return the squared error, and the bits of geometric codes, array by array."""
    error = bits = 0.0
    for x in arrays:
        unit = (np.abs(x) / most).astype(np.float32)
        q = np.floor(unit * np.float32(1 / step) + np.float32(0.4))
        error += float(np.square(unit - q * np.float32(step), dtype=np.float64).sum())
        bits += x.size * float(entropy(np.array([q.mean(dtype=np.float64)]))[0])
    return error, bits


@pytest.mark.parametrize("scale", [1e-37, 1.0, 1e37])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_guesses_are_those_of_each_array(count: int, scale: float) -> None:
    rng = np.random.default_rng(count)
    arrays = [(rng.standard_normal((i % 7 + 1, 1 + i % 5)) * scale).astype(np.float32) for i in range(count)]
    exact = [np.float32(3), np.zeros((0, 3), np.float32), np.array([np.nan], np.float32)]
    sample = _Sample(Given(*arrays, *map(np.asarray, exact)))  # type: ignore[arg-type]
    assert sample.most == max(float(np.abs(x).max()) for x in arrays)
    for step in (1e-3, 0.1, 0.7, 1.9):
        error, bits = plainly(step, arrays, sample.most)
        assert sample.squared_error(step) == pytest.approx(error, rel=1e-4, abs=1e-9)
        assert sample._bits(step) == pytest.approx(bits, rel=1e-4, abs=1e-9)
    steps = [sample.step(bits * sum(x.size for x in arrays)) for bits in (0.5, 2, 6)]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize("found", [[], [np.float32(2)], [np.zeros((0, 2), np.float32)], [np.full(3, np.inf)]])
def test_a_sample_of_nothing(found: list[np.ndarray]) -> None:
    sample = _Sample(Given(*map(np.asarray, found)))  # type: ignore[arg-type]
    assert (sample.most, sample.squared_error(0.5), sample._bits(0.5)) == (1.0, 0.0, 0.0)
    assert sample.step(100) > 0


def test_a_sample_of_zeros() -> None:
    sample = _Sample(Given(np.zeros((30, 20), np.float32)))  # type: ignore[arg-type]
    assert (sample.most, sample.squared_error(0.5)) == (1.0, 0.0)
    assert sample._bits(0.5) < 1


def test_scales_of_which_only_float64_holds_some() -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((30, 20)).astype(np.float32), "b": rng.standard_normal((30, 20)) * 1e200}
    bundle = Bundle(pack(dict(arrays), "budget(bits=4)"))
    assert not bundle["a"].any() or bundle.exact("a")
    assert np.abs(bundle["b"] / arrays["b"] - 1).max() < 200
    assert np.linalg.norm(bundle["b"] / 1e200 - arrays["b"] / 1e200) < 0.1 * np.linalg.norm(arrays["b"] / 1e200)


def test_large_records_are_sampled() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((3000, 700), (1, 900_000), (9, 9))]
    sample = _Sample(Given(*arrays))  # type: ignore[arg-type]
    assert sample.flat.size < 400_000
    error, bits = plainly(0.05, arrays, sample.most)
    assert sample.squared_error(0.05) == pytest.approx(error, rel=0.02)
    assert sample._bits(0.05) == pytest.approx(bits, rel=0.02)


def test_plans_cannot_encode_alone() -> None:
    x = np.ones((3, 4), np.float32)
    for text in ("budget(bits=1)", "delta | budget(bits=1)", f"budget({LOWRANK}, bits=1)"):
        with pytest.raises(ConfigError, match="over a whole record; use pack, or LatentRecord"):
            parse(text).encode(x, Spec.of(x, "x", x))
    with pytest.raises(ChunkError, match="no bytes are coded with budget"):
        parse("budget(bits=1)").decode(b"abc", Spec.of(x))


def test_plans_in_a_template_are_settled_or_refused() -> None:
    arrays = update(14)
    for target in ("error=0.9", "ratio=100"):
        try:
            text = f"budget(sparse(keep=0.3, whole=true) | quantize(step=1.0) | entropy, {target})"
            bundle = Bundle(pack(arrays, text))
        except ConfigError:
            continue
        assert relative_error(bundle, arrays) > 0.1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "one of bits, bytes, ratio and error"),
        ({"bits": 1.0, "ratio": 4}, "one of bits"),
        ({"bits": 0}, "bits above 0"),
        ({"bits": True}, "bits above 0"),
        ({"bytes": -3}, "bytes above 0"),
        ({"ratio": float("inf")}, "ratio above 0"),
        ({"error": float("nan")}, "error above 0"),
        ({"error": "x"}, "error above 0"),
        ({"bits": 1, "least": -1}, "least of 0 bytes or more"),
        ({"bits": 1, "least": 2.0}, "least of 0 bytes or more"),
        ({"bits": 1, "least": True}, "least of 0 bytes or more"),
        ({"bytes": 9, "least": 9}, "least goes with bits or ratio"),
        ({"error": 0.1, "least": 9}, "least goes with bits or ratio"),
        ({"bits": 1, "pipelines": ()}, "one pipeline with a step"),
        ({"bits": 1, "pipelines": (parse("zstd"),)}, "one pipeline with a step"),
        ({"bits": 1, "pipelines": (parse("quantize(bits=4) | entropy"),)}, "one pipeline with a step"),
        ({"bits": 1, "pipelines": (parse("lowrank | entropy"),) * 2}, "one pipeline with a step"),
    ],
)
def test_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Budget(**arguments)  # type: ignore[arg-type]


def test_promises() -> None:
    plan = Budget(bits=1)
    assert not plan.lossless
    assert plan.reproducible
    assert not plan.settled
    assert plan.refuses(Spec("x", "int64", (3,)))
    assert plan.refuses(Spec("x", "complex64", (3,)))
