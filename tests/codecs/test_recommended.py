"""Names for what is recommended stand wherever the text of a pipeline does."""

import numpy as np
import pytest

from flowerpress import Bundle, ConfigError, LatentArray, LatentRecord, Spec, pack, parse, press, unpress
from flowerpress.codecs import recommended
from flowerpress.codecs.policy import Policy
from flowerpress.codecs.recommended import RECOMMENDED, Recommended, down, up

RNG = np.random.default_rng(31)
NAMES = list(RECOMMENDED)
Arrays = dict[str, np.ndarray]


def model() -> tuple[Arrays, Arrays]:
    """Return a model and its reference, with what models have: weights, variances, counts, masks, scalars."""
    bases = {
        "conv.weight": RNG.standard_normal((32, 16, 3, 3)).astype(np.float32),
        "fc.weight": RNG.standard_normal((300, 120)).astype(np.float32),
        "fc.bias": np.zeros(120, np.float32),
        "norm.weight": np.ones(32, np.float32),
        "norm.running_var": RNG.uniform(0.1, 3, 32).astype(np.float32),
        "norm.count": np.array(7),
        "ids": RNG.integers(0, 99, 40),
        "mask": RNG.random(30) > 0.5,
    }
    moved = {key: (x + 0.1 * RNG.standard_normal(x.shape)).astype(x.dtype) for key, x in bases.items()}
    ratios = np.exp2(RNG.uniform(-2, 2, 32)).astype(np.float32)
    exact = {"norm.running_var": bases["norm.running_var"] * ratios, "mask": ~bases["mask"], "ids": bases["ids"] + 3}
    return {**moved, **exact}, bases


def record_of(arrays: Arrays) -> LatentRecord:
    record = LatentRecord()
    for key, x in arrays.items():
        record[key] = LatentArray(np.asarray(x))
    return record


@pytest.mark.parametrize("name", NAMES)
def test_they_stand_wherever_text_does(name: str) -> None:
    arrays, bases = model()
    text, record = up(name), record_of(arrays)
    assert parse(name) == parse(f" {name} ") == parse(text)
    assert Policy.parse(name) == Policy.parse(text)
    assert Policy.parse(f"fc.* = {name}; * = raw") == Policy.parse(f"fc.* = {text}; * = raw")
    data = pack(dict(arrays), name, bases=bases)
    assert data == pack(dict(arrays), text, bases=bases)
    pressed = press(record, name, bases=bases)
    assert pressed == press(record, text, bases=bases)
    assert list(unpress(pressed, bases=bases)) == list(arrays)
    assert LatentRecord([np.ones(3)], codec=name).to_numpy_ndarrays()[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_float_is_exact(name: str) -> None:
    arrays, bases = model()
    bundle = Bundle(pack(dict(arrays), name, bases=bases), bases=bases)
    for key, x in arrays.items():
        y = bundle[key]
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
        if name == "lossless" or x.dtype != np.float32:
            assert y.tobytes() == x.tobytes()
    assert (bundle["norm.running_var"] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_references_all_are_lossless(name: str) -> None:
    arrays, _ = model()
    assert all(y.tobytes() == arrays[key].tobytes() for key, y in Bundle(pack(dict(arrays), name)).items())


def octaves(ratio: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(ratio.astype(np.float64))
    return np.asarray(exponent + 2 * mantissa - 2)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_safe_errs_by_a_hundredth_of_the_range_in_which_an_array_changed(scale: float) -> None:
    arrays, bases = (
        {k: (x * scale).astype(x.dtype) if x.dtype == np.float32 else x for k, x in m.items()} for m in model()
    )
    bundle = Bundle(pack(dict(arrays), "safe", bases=bases), bases=bases)
    lossy = [key for key in bundle if not bundle.exact(key)]
    assert len(lossy) == 5
    for key in lossy:
        x, y, base = (z.astype(np.float64) for z in (arrays[key], bundle[key], bases[key]))
        if (base > 0).all():
            x, y, base = octaves(x / base), octaves(y / base), np.zeros(x.shape)
        bound = 0.01 * np.ptp(x - base)
        assert np.abs(y - x).max() <= bound * (1 + 1e-3) + 1e-6 * np.abs(x).max(), key
        assert np.abs(y - x).max() > bound / 3


@pytest.mark.parametrize(("name", "bits"), [("partial", 0.18), ("small", 0.08), ("tiny", 0.05)])
def test_rates(name: str, bits: float) -> None:
    base = {"w": RNG.standard_normal((900, 700)).astype(np.float32)}
    x = {"w": base["w"] + RNG.standard_normal((900, 700)).astype(np.float32)}
    assert 0.9 * bits / 8 * 630_000 < len(pack(x, name, bases=base)) <= bits / 8 * 630_000


@pytest.mark.parametrize("name", ["partial", "small", "tiny"])
@pytest.mark.parametrize("shape", [(1,), (10, 3), (64, 10)])
def test_records_that_are_little_more_than_their_names(name: str, shape: tuple[int, ...]) -> None:
    base = {f"{i}.weight": RNG.standard_normal(shape).astype(np.float32) for i in range(8)}
    arrays = {key: x + np.float32(0.1) * RNG.standard_normal(shape).astype(np.float32) for key, x in base.items()}
    data = pack(dict(arrays), name, bases=base)
    assert len(data) <= 1000
    bundle = Bundle(data, bases=base)
    error = sum(np.square(bundle[key] - arrays[key]).sum() for key in arrays)
    assert error < 0.9 * sum(np.square(arrays[key] - base[key]).sum() for key in arrays)


def test_unknown_names_are_told_the_known() -> None:
    for given in ("smal", "small | zstd", "* = smal"):
        with pytest.raises(ConfigError, match=f"no codec is called 'smal.*or alone one of {', '.join(NAMES)}"):
            Policy.parse(given)


def test_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recommended.RECOMMENDED, "small", Recommended("raw", "zstd(level=9)"))
    assert (up("small"), down("small"), down("raw"), up("nothing")) == ("raw", "zstd(level=9)", "raw", "nothing")
    assert str(Policy.parse("a = small; * = small", down)) == "a = planes | zstd(level=9); * = planes | zstd(level=9)"
    assert str(Policy.parse("a = small; * = small")) == "a = raw; * = raw"
    assert str(Policy.parse("small")(Spec("w", "float32", (3,)))) == "raw"
