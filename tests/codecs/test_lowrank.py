from concurrent.futures import ThreadPoolExecutor
from math import floor, log2, sqrt

import ml_dtypes
import numpy as np
import pytest

from flowerpress import Bundle, ChunkError, ConfigError, Spec, pack, parse
from flowerpress.codecs import lowrank
from flowerpress.codecs.dtypes import to_host, to_tensor
from flowerpress.codecs.lowrank import LowRank

RNG = np.random.default_rng(26)


def there_and_back(x: np.ndarray, **arguments: float) -> np.ndarray:
    codec, spec = LowRank(**arguments), Spec.of(x, "x")  # type: ignore[arg-type]
    q = codec.encode(x, spec)
    after = codec.after(spec)
    assert (q.dtype, q.shape, sum(map(np.prod, after.parts))) == (np.int32, after.shape, q.size)
    y = codec.decode(q, spec)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    return y


def low(rows: int, columns: int, rank: int, dtype: str = "float32") -> np.ndarray:
    x = RNG.standard_normal((rows, rank)) * np.exp2(-np.arange(rank)) @ RNG.standard_normal((rank, columns))
    return x.astype(getattr(ml_dtypes, dtype, dtype))


def squared(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.square(x.astype(np.float64) - y.astype(np.float64)).sum())


@pytest.mark.parametrize("step", [0.3, 0.05, 0.001])
@pytest.mark.parametrize("shape", [(60, 50), (300, 200), (200, 300), (40, 500), (1000, 120)])
def test_a_matrix_of_rank_three_errs_by_what_the_step_allows(shape: tuple[int, int], step: float) -> None:
    x = low(*shape, 3, "float64")
    allowed = 3 * step**2 / 12 * sum(shape)
    assert 0.3 * allowed < squared(x, there_and_back(x, step=step)) < 1.6 * allowed


@pytest.mark.parametrize("rank", [1, 2, 5, 16])
def test_the_rank_is_the_most_directions(rank: int) -> None:
    x = low(200, 160, 8, "float64")
    energy = np.linalg.svd(x)[1] ** 2
    error = squared(x, there_and_back(x, rank=rank, step=0.001))
    assert error == pytest.approx(energy[rank:8].sum(), rel=0.02, abs=0.01)
    assert np.linalg.matrix_rank(there_and_back(x, rank=rank, step=0.001), tol=1e-6) <= rank


def test_directions_below_the_step_vanish() -> None:
    noise = RNG.standard_normal((300, 200)) * 1e-4
    x = low(300, 200, 3, "float64") + noise
    y = there_and_back(x, step=0.05)
    assert np.linalg.matrix_rank(y, tol=1e-6) == 3
    assert not there_and_back(noise, step=0.1).any()
    spec, codec = Spec.of(x), LowRank(step=0.05)
    assert np.count_nonzero(codec.encode(x, spec)[:16]) <= 3
    pipeline = parse("lowrank(step=0.05) | entropy")
    assert len(pipeline.encode(x, spec)) < 3 * 500 * 11 / 8 + 100


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(dtype: str) -> None:
    x = low(120, 90, 2, dtype)
    rounding = {"float16": 2**-11, "bfloat16": 2**-8}.get(dtype, 0)
    found = sqrt(squared(x, there_and_back(x, step=0.01, rank=4)))
    assert found < sqrt(4 * 0.01**2 / 12 * 210 * 1.6) + 2 * rounding * np.linalg.norm(x.astype(np.float64))


@pytest.mark.parametrize("shape", [(), (1,), (500,), (1, 500), (500, 1), (2, 2), (3, 3, 1)])
def test_what_has_no_fewer_numbers_in_factors_is_quantised(shape: tuple[int, ...]) -> None:
    x = np.asarray(RNG.standard_normal(shape), np.float32)
    codec, spec = LowRank(step=0.1), Spec.of(x)
    assert codec.after(spec).shape == shape
    assert np.abs(there_and_back(x, step=0.1) - x).max() <= 0.0601


def test_matrices_of_four_axes_are_those_of_the_first_by_the_others() -> None:
    x = low(64, 27, 2).reshape(64, 3, 3, 3)
    flat = there_and_back(x.reshape(64, 27), step=0.01)
    assert there_and_back(x, step=0.01).tobytes() == flat.tobytes()


def test_zeros() -> None:
    for shape in ((200, 100), (50,), (500, 400)):
        x = np.zeros(shape, np.float32)
        assert not there_and_back(x, step=1e-9).any()
    x = np.zeros((200, 100), np.float32)
    x[17] = 3.0
    assert sqrt(squared(x, there_and_back(x, step=0.01))) < 0.2


def factors(x: np.ndarray, step: float, rank: int = 6) -> tuple[LowRank, Spec, np.ndarray]:
    codec, spec = LowRank(rank=rank, step=step), Spec.of(x, "x")
    return codec, spec, codec.encode(x, spec)  # type: ignore[return-value]


@pytest.mark.parametrize("step", [0.3, 0.01, 1e-5])
def test_decoding_is_exact_before_it_rounds_once(step: float) -> None:
    """So it cannot depend on the order in which a device sums: here Python's integers do."""
    x = low(70, 50, 4, "float64") + RNG.standard_normal((70, 50)) * 0.01
    codec, spec, q = factors(x, step)
    relative, a, b = q[:6].astype(int), q[6 : 6 + 420].reshape(6, 70), q[6 + 420 :].reshape(6, 50)
    used = np.flatnonzero(a.any(1) & b.any(1))
    highest = max(relative[used].max(), 0)
    whole = np.zeros((70, 50), object)
    for k in used:
        whole += np.outer(a[k].astype(object), b[k].astype(object)) * 2 ** int(highest - relative[k])
    unit = np.ldexp(step * step, -(highest + floor(log2(step))))
    assert (whole.astype(np.float64) * unit).tobytes() == codec.decode(q, spec).tobytes()


def test_permuted_columns_and_directions_decode_to_the_same_bits() -> None:
    codec, spec, q = factors(low(300, 260, 6), 0.001)
    y = codec.decode(q, spec)
    relative, a, b = q[:6], q[6:1806].reshape(6, 300), q[1806:].reshape(6, 260)
    rows, columns, order = RNG.permutation(300), RNG.permutation(260), RNG.permutation(6)
    moved = np.concatenate([relative[order], a[order][:, rows].ravel(), b[order][:, columns].ravel()])
    assert codec.decode(moved, spec).tobytes() == y[rows][:, columns].tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(80, 60), (300, 250), (40,), (20, 4, 5, 5)])
def test_tensors_are_as_good_as_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    x = low(shape[0], int(np.prod(shape[1:])), 2, dtype).reshape(shape)
    codec, spec = LowRank(step=0.02, rank=4), Spec.of(x)
    errors = [squared(x, codec.decode(to_host(codec.encode(given, spec)), spec)) for given in (x, to_tensor(x))]
    assert errors[1] == pytest.approx(errors[0], rel=0.05, abs=1e-6)


def test_values_that_are_not_finite_are_refused() -> None:
    for shape in ((100, 80), (9,)):
        for value in (np.nan, np.inf, -np.inf):
            x = np.ones(shape, np.float32)
            x.flat[-1] = value
            with pytest.raises(ConfigError, match="finite"):
                there_and_back(x, step=1.0)
    x = low(100, 80, 2)
    x[3, 3] = np.nan
    bundle = Bundle(pack({"x": x, "y": low(100, 80, 2)}, "lowrank(step=0.1) | entropy"))
    assert bundle["x"].tobytes() == x.tobytes()


@pytest.mark.parametrize("step", [1e-8, 1e-12, 1e-300])
@pytest.mark.parametrize("shape", [(100, 80), (9,)])
def test_steps_that_are_too_small(shape: tuple[int, ...], step: float) -> None:
    with pytest.raises(ConfigError, match="too small"):
        there_and_back(np.asarray(RNG.standard_normal(shape) * 1e3), step=step)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(
    ("value", "dtype", "shape", "step"),
    [
        (1e308, "float64", (64, 64), 1.0),
        (1e308, "float64", (200,), 1e-10),
        (1.7e308, "float64", (64, 64), 1e306),
        (3e38, "float32", (64, 64), 1e36),
        (1e-315, "float64", (64, 64), 1.0),
        (448, "float8_e4m3fn", (200,), 170.0),
        (448, "float8_e4m3fn", (64, 64), 100.0),
    ],
)
def test_what_is_encoded_decodes(value: float, dtype: str, shape: tuple[int, ...], step: float, tensor: bool) -> None:
    x = np.full(shape, value, getattr(ml_dtypes, dtype, dtype))
    y = Bundle(pack({"w": to_tensor(x) if tensor else x}, f"lowrank(step={step}) | entropy"))["w"]
    allowed = min(0.6 * step, value) if len(shape) == 1 else max(step, 0.1 * value)
    assert np.abs(y.astype(np.float64) / value - x.astype(np.float64) / value).max() <= allowed / value + 1e-9


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-40), ("float32", 1e-20), ("float32", 1e20), ("float64", 1e-150)]
)
def test_any_scale(dtype: str, scale: float) -> None:
    x = (low(300, 200, 2, "float64") * scale).astype(dtype)
    y = there_and_back(x, step=scale / 30)
    assert np.linalg.norm(y / scale - x / scale) < 0.05 * np.linalg.norm(x / scale)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e38), ("float64", 1e160), ("float64", 1e300)])
@pytest.mark.parametrize("shape", [(100, 80), (300, 300)])
def test_scales_whose_squares_overflow_are_coded_or_refused(dtype: str, scale: float, shape: tuple[int, int]) -> None:
    x = (RNG.random(shape) * scale).astype(dtype)
    try:
        y = there_and_back(x, step=scale / 30)
    except ConfigError:
        return
    assert np.linalg.norm(y / scale - x / scale) < np.linalg.norm(x / scale)


def test_too_large_for_the_step_is_exact_in_a_bundle() -> None:
    arrays = {"x": low(100, 80, 3) * np.float32(1e12), "y": np.full(9, 1e12, np.float32)}
    bundle = Bundle(pack(arrays, "lowrank(step=0.001) | entropy"))
    assert all(bundle[key].tobytes() == x.tobytes() for key, x in arrays.items())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_forged_integers(dtype: str) -> None:
    codec, spec, q = factors(low(100, 80, 2, dtype), 0.01, rank=2)
    most, least = 2**31 - 1, -(2**31)
    forged = [(slice(0, q.size), most), (slice(0, q.size), least), (slice(2, q.size), most), (slice(2, q.size), least)]
    forged += [(slice(0, 1), e) for e in (most, least, 1024, -1024, 100, 60)]
    for place, value in forged:
        bad = q.copy()
        bad[place] = value
        with pytest.raises(ChunkError, match="factors whose product"):
            codec.decode(bad, spec)


@pytest.mark.parametrize("exponent", [-1023, -1000, -120, 0, 200, 1023])
@pytest.mark.parametrize("magnitude", [1, 2**26, 2**30])
def test_forged_factors_give_finite_values_or_an_error_of_ours(exponent: int, magnitude: int) -> None:
    for dtype in ("float16", "float32", "float64"):
        spec = Spec("x", dtype, (100, 80))
        codec = LowRank(rank=2, step=0.01)
        q = RNG.choice([-magnitude, magnitude], codec.after(spec).shape).astype(np.int32)
        q[:2] = exponent, min(exponent + 3, 1023)
        try:
            x = codec.decode(q, spec)
        except ChunkError:
            continue
        assert np.isfinite(x).all()


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [("float16", 60_000, True), ("float16", 70_000, False), ("float32", 2**31 - 1, True), ("bfloat16", -(2**31), True)],
)
def test_quantised_integers_that_the_dtype_does_not_hold(dtype: str, value: int, fits: bool) -> None:
    spec, codec = Spec("x", dtype, (3,)), LowRank(step=1.0)
    q = np.array([0, value, 1], np.int32)
    if fits:
        assert codec.decode(q, spec)[1] == pytest.approx(value, rel=0.01)
    else:
        with pytest.raises(ChunkError, match="does not hold"):
            codec.decode(q, spec)


def test_bytes_of_other_shapes() -> None:
    x = low(100, 80, 2)
    pipeline = parse("lowrank(rank=2, step=0.01) | entropy")
    data = bytes(pipeline.encode(x, Spec.of(x)))
    for shape in ((100, 81), (8000,), (99, 80)):
        with pytest.raises(ChunkError):
            pipeline.decode(data, Spec("x", "float32", shape))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rank": 0}, "rank from 1 to 16"),
        ({"rank": 17}, "rank from 1 to 16"),
        ({"rank": 2.0}, "rank from 1 to 16"),
        ({"rank": True}, "rank from 1 to 16"),
        ({"step": 0}, "step above 0"),
        ({"step": -1.0}, "step above 0"),
        ({"step": float("nan")}, "step above 0"),
        ({"step": float("inf")}, "step above 0"),
        ({"step": "x"}, "step above 0"),
    ],
)
def test_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        LowRank(**arguments)  # type: ignore[arg-type]


def test_promises() -> None:
    codec = LowRank()
    assert not codec.lossless
    assert codec.reproducible
    assert not codec.elementwise
    assert codec.joinable
    for x in (np.ones(3, np.int32), np.ones(3, np.complex64), np.ones((0, 3), np.float32)):
        assert codec.refuses(Spec.of(x))


# ---- several arrays


def several() -> dict[str, np.ndarray]:
    """Return small arrays that are joined: matrices, one of four axes, vectors, a single value."""
    shapes = [(60, 40), (30,), (24, 3, 3, 3), (1,), (50, 50), (2, 2)]
    return {f"{i}": low(s[0], int(np.prod(s[1:])), 2).reshape(s) for i, s in enumerate(shapes)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("step", [0.02, 0.3])
def test_arrays_coded_jointly_are_what_each_is_by_itself(dtype: str, step: float) -> None:
    arrays = {key: x.astype(getattr(ml_dtypes, dtype, dtype)) for key, x in several().items()}
    codec, spec = LowRank(rank=4, step=step), Spec.join([Spec.of(x, key) for key, x in arrays.items()])
    q = codec.encode(np.concatenate([x.ravel() for x in arrays.values()]), spec)
    each = [codec.encode(x, Spec.of(x, key)).ravel() for key, x in arrays.items()]
    after = codec.after(spec)
    assert np.array_equal(q, np.concatenate(each))
    assert (after.shape, sum(map(np.prod, after.parts))) == (q.shape, q.size)
    found = np.split(codec.decode(q, spec), np.cumsum([x.size for x in arrays.values()])[:-1])
    for x, y, alone in zip(arrays.values(), found, each, strict=True):
        assert y.tobytes() == codec.decode(alone.reshape(codec.after(Spec.of(x)).shape), Spec.of(x)).tobytes()


def test_joined_chunks_in_a_bundle() -> None:
    text, arrays = "lowrank(rank=4, step=0.05) | entropy", several()
    bundle = Bundle(pack(dict(arrays), text))
    assert len(bundle.layout.chunks) == 1
    for key, y in bundle.read_all().items():
        alone = Bundle(pack({key: arrays[key]}, text))
        assert y.tobytes() == bundle[key].tobytes()
        assert y.tobytes() == alone[key].tobytes() or alone.exact(key), "a single value is no shorter when coded"
        assert bundle.read(key, 1, 3).tobytes() == y.ravel()[1:3].tobytes()


def test_one_that_cannot_be_coded_costs_the_others_nothing() -> None:
    arrays = several()
    arrays["2"][0, 0] = np.nan
    bundle = Bundle(pack(dict(arrays), "lowrank(rank=4, step=0.05) | entropy"))
    assert [key for key in bundle if bundle.exact(key)] == ["2", "3"], "a single value is no shorter when coded"
    assert bundle["2"].tobytes() == arrays["2"].tobytes()


def test_forged_factors_of_one_array_among_several() -> None:
    arrays = several()
    codec, spec = LowRank(rank=4, step=0.05), Spec.join([Spec.of(x, key) for key, x in arrays.items()])
    q = np.array(codec.encode(np.concatenate([x.ravel() for x in arrays.values()]), spec))
    q[:4] = 2**31 - 1
    with pytest.raises(ChunkError, match="factors whose product"):
        codec.decode(q, spec)


# ---- what is remembered


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> lowrank._Remembered:
    """Begin with an empty memory."""
    fresh = lowrank._Remembered()
    monkeypatch.setattr(lowrank, "_remembered", fresh)
    return fresh


def test_matrices_are_decomposed_once_for_all_steps(
    remembered: lowrank._Remembered, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, directions = list[tuple[int, ...]](), lowrank._directions
    monkeypatch.setattr(lowrank, "_directions", lambda x, rank: calls.append(x.shape) or directions(x, rank))
    arrays = {"a": low(300, 200, 3), "b": low(90, 80, 2)}
    pack(dict(arrays), "budget(lowrank | entropy, bits=0.2)")
    assert sorted(calls) == [(90, 80), (300, 200)]
    pack({"a": arrays["a"] + np.float32(1e-3)}, "lowrank(step=0.1) | entropy")
    assert len(calls) == 3
    pack({"a": arrays["a"]}, "lowrank(rank=2, step=0.1) | entropy")
    assert len(calls) == 4, "another rank may have other directions"


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_bytes_do_not_depend_on_what_is_remembered_nor_on_workers(
    workers: int, remembered: lowrank._Remembered, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    arrays = {f"{i}": rng.standard_normal((700, 600)).astype(np.float32) for i in range(4)}
    arrays |= {f"small {i}": rng.standard_normal((40, 30)).astype(np.float32) for i in range(9)}
    text = "budget(lowrank | entropy, bits=0.1)"
    cold = pack(dict(arrays), text, workers=1)
    assert pack(dict(arrays), text, workers=workers) == cold
    assert remembered.found
    monkeypatch.setattr(lowrank, "_MOST_REMEMBERED", 0)
    monkeypatch.setattr(lowrank, "_remembered", none := lowrank._Remembered())
    assert pack(dict(arrays), text, workers=workers) == cold
    assert (none.nbytes, len(none.found)) == (0, 0)


def test_no_more_is_remembered_than_allowed(remembered: lowrank._Remembered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank, "_MOST_REMEMBERED", most := 50_000)
    for rows in (100, 390, 200, 3000, 150, 90, 100, 380):
        there_and_back(low(rows, 60, 2), step=0.1)
        held = sum(left.nbytes + values.nbytes for left, values in remembered.found.values())
        assert remembered.nbytes == held <= most
    assert remembered.found


def test_threads(remembered: lowrank._Remembered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowrank, "_MOST_REMEMBERED", 100_000)
    matrices = [low(150, 100, 3) for _ in range(6)]
    codec, spec = LowRank(step=0.1), Spec.of(matrices[0])
    expected = [codec.encode(x, spec).tobytes() for x in matrices]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: codec.encode(matrices[i % 6], spec).tobytes(), range(96)))
    assert found == expected * 16
    held = sum(left.nbytes + values.nbytes for left, values in remembered.found.values())
    assert remembered.nbytes == held <= 100_000
