import numpy as np
import pytest

from flowerpress import Bundle, ChunkError, ConfigError, Spec, pack, parse
from flowerpress.codecs.best import Best
from tests.codecs.updates import base, update

RATE = "ratio=60"
TEXT = f"best(budget({RATE}), budget(lowrank | entropy, {RATE}))"
RNG = np.random.default_rng(27)


def low_rank() -> dict[str, np.ndarray]:
    """Return what few images make of a network: each matrix moves in few directions, and all of it."""
    return {
        str(i): (RNG.standard_normal((shape[0], 3)) @ RNG.standard_normal((3, shape[1]))).astype(np.float32)
        for i, shape in enumerate([(300, 400), (200, 250), (128, 500)])
    }


def full_rank() -> dict[str, np.ndarray]:
    return {k: x for k, x in update(1).items() if x.dtype == np.float32}


def squared_error(data: bytes, arrays: dict[str, np.ndarray]) -> float:
    found = Bundle(data)
    return sum(float(np.square(found[k].astype(np.float64) - x).sum()) for k, x in arrays.items())


@pytest.mark.parametrize(("make", "winner"), [(low_rank, "lowrank"), (full_rank, "quantize")])
def test_the_smaller_error_at_the_same_rate(make, winner: str) -> None:
    arrays = make()
    chosen = pack(arrays, TEXT)
    sides = [pack(arrays, f"budget({RATE})"), pack(arrays, f"budget(lowrank | entropy, {RATE})")]
    assert chosen == min(sides, key=lambda data: squared_error(data, arrays))
    assert any(str(p).startswith(winner) for p in Bundle(chosen).layout.pipelines)
    errors = sorted(squared_error(data, arrays) for data in sides)
    assert errors[0] < 0.9 * errors[1]


def test_the_order_does_not_matter() -> None:
    for arrays in (low_rank(), full_rank()):
        turned = f"best(budget(lowrank | entropy, {RATE}), budget({RATE}))"
        assert pack(arrays, TEXT) == pack(arrays, turned)


def test_it_decides_for_the_whole_record() -> None:
    mixed = {**{f"low.{k}": x * 100 for k, x in low_rank().items()}, **full_rank()}
    bundle = Bundle(pack(mixed, TEXT))
    lossy = {p.stages[0].name for p in bundle.layout.pipelines if not p.lossless}
    assert lossy == {"lowrank"}


def test_of_equal_errors_the_shortest() -> None:
    arrays = {"x": np.repeat(np.arange(300, dtype=np.float32), 10)}
    for text in ("best(raw, zstd(level=19))", "best(zstd(level=19), raw)"):
        assert str(Bundle(pack(arrays, text)).layout.pipelines[0]) == "planes | zstd(level=19)"
    assert str(Bundle(pack(arrays, "best(planes | zstd, zstd)")).layout.pipelines[0]) == "planes | zstd"


def test_exact_beats_lossy() -> None:
    arrays = full_rank()
    bundle = Bundle(pack(arrays, "best(quantize(step=0.001) | entropy, zstd, quantize(step=1.0) | entropy)"))
    assert all(bundle[key].tobytes() == x.tobytes() for key, x in arrays.items())


def test_behind_a_difference() -> None:
    bases, moved = base(1), full_rank()
    arrays = {k: bases[k] + x for k, x in moved.items()}
    data = pack(arrays, f"delta | {TEXT}", bases=bases)
    assert len(data) <= sum(x.nbytes for x in arrays.values()) / 60
    assert data == min(
        (pack(arrays, f"delta | budget({t}{RATE})", bases=bases) for t in ("", "lowrank | entropy, ")),
        key=lambda d: sum(float(np.square(Bundle(d, bases=bases)[k] - x).sum()) for k, x in arrays.items()),
    )
    assert all(p.settled for p in Bundle(data).layout.pipelines)


def test_workers_do_not_matter() -> None:
    arrays = {**full_rank(), **{f"low.{k}": x for k, x in low_rank().items()}}
    assert pack(arrays, TEXT, workers=1) == pack(arrays, TEXT, workers=4)


def test_a_budget_that_one_of_them_cannot_meet_is_left_to_the_others() -> None:
    """Integers that are not entropy-coded take four bytes each, whatever the step."""
    arrays = full_rank()
    cannot = "budget(quantize(step=1.0) | raw, bytes=1300)"
    text = f"best(budget(bytes=1300), {cannot})"
    alone = pack(arrays, "budget(bytes=1300)")
    with pytest.raises(ConfigError, match="cannot be met"):
        pack(arrays, cannot)
    assert pack(arrays, text) == alone


def test_arguments() -> None:
    with pytest.raises(ConfigError, match="two pipelines or more"):
        parse("best(raw)")
    with pytest.raises(ConfigError):
        parse("best")
    assert parse("best(raw, zstd)") == parse("best(raw, planes | zstd)")


def test_promises() -> None:
    assert Best(pipelines=(parse("raw"), parse("zstd"))).lossless
    assert not parse(TEXT).lossless
    assert parse(TEXT).reproducible
    assert not parse(TEXT).settled
    assert parse(TEXT).refuses(Spec("x", "int64", (3,)))
    x = np.ones(3, np.float32)
    with pytest.raises(ConfigError, match="over a whole record"):
        parse(TEXT).encode(x, Spec.of(x))
    with pytest.raises(ChunkError, match="no bytes are coded with best"):
        parse(TEXT).decode(b"", Spec.of(x))
