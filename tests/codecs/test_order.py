import numpy as np
import pytest

from flowerpress.codecs.order import Order

RNG = np.random.default_rng(19)


@pytest.mark.parametrize("size", [1, 2, 65_535, 65_536, 65_537, 200_003])
@pytest.mark.parametrize("most", [1, 7, 256])
def test_it_is_the_stable_order_of_everything_at_once(size: int, most: int) -> None:
    classes, values = RNG.integers(0, most, size, dtype=np.uint8), RNG.integers(-9, 9, size, dtype=np.int16)
    order = Order(classes)
    assert np.array_equal(order.sort(values), values[np.argsort(classes, kind="stable")])
    assert np.array_equal(order.restore(order.sort(values)), values)
    assert np.array_equal(order.ends, np.bincount(classes, minlength=256).cumsum())
