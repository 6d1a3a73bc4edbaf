import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress.codecs.levels import BOTH, MOST, ONE, ROWS, Scales, entropy, matrix

RNG = np.random.default_rng(22)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((5,), (1, 5)), ((5, 1), (5, 1)), ((1, 5), (1, 5)), ((4, 3, 2, 2), (4, 12)), ((0, 3), (0, 3))],
)
def test_matrix(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert matrix(shape) == expected


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.0, 7.0, 300.0])
def test_entropy_is_that_of_signed_geometric_values(mean: float) -> None:
    k = np.arange(200_000)
    share = (mean / (1 + mean)) ** k / (1 + mean)
    used = share > 1e-300
    bits = float(-(share[used] * np.log2(share[used])).sum() + share[1:].sum())
    assert entropy(mean) == pytest.approx(bits, rel=1e-6)


def test_entropy_grows_from_nothing() -> None:
    found = entropy(np.geomspace(1e-6, 1e6, 100))
    assert (np.diff(found) > 0).all()
    assert entropy(0) < 1e-6


def geometric(scale: np.ndarray) -> np.ndarray:
    return np.rint(np.abs(RNG.laplace(size=scale.shape) * scale)).astype(np.uint32)


def test_what_travels_is_what_pays() -> None:
    rows, columns = np.exp2(RNG.normal(0, 1, (200, 1))), np.exp2(RNG.normal(0, 1, (1, 300)))
    flat = np.full((200, 300), 2.0)
    assert Scales(geometric(flat)).choose(2)[1].mode == ONE
    assert Scales(geometric(flat * rows)).choose(2)[1].mode != ONE
    assert Scales(np.arange(200, dtype=np.uint32).repeat(300).reshape(200, 300)).choose(2)[1].mode == ROWS
    assert Scales(geometric(flat * columns)).choose(2)[1].mode == BOTH
    assert Scales(geometric(flat * rows * columns)).choose(2)[1].mode == BOTH
    assert Scales(geometric(flat).reshape(1, -1)).choose(2)[1].mode == ONE


@pytest.mark.parametrize("resolution", [1, 2])
def test_the_promise_is_about_what_the_classes_take(resolution: int) -> None:
    scale = np.exp2(RNG.normal(0, 2, (300, 1)) + RNG.normal(0, 2, (1, 500)))
    q = geometric(scale)
    bits, lines = Scales(q).choose(resolution)
    classes = lines.classes()
    exact = 0.0
    for number in np.unique(classes):
        group = q.ravel()[classes == number]
        exact += group.size * float(entropy(group.mean()))
    assert bits == pytest.approx(exact, rel=0.1)
    assert bits < 0.8 * q.size * float(entropy(q.mean()))


@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.uint32, np.uint64]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
    ),
    st.sampled_from([1, 2]),
)
def test_lines_of_any_magnitudes(q: np.ndarray, resolution: int) -> None:
    bits, lines = Scales(q).choose(resolution)
    classes = lines.classes().reshape(q.shape)
    assert np.isfinite(bits)
    assert lines.rows.size == (1 if lines.mode == ONE else q.shape[0])
    assert lines.columns.size == (q.shape[1] if lines.mode == BOTH else 0)
    assert classes.max() <= MOST
    assert not q[classes == 0].any()
