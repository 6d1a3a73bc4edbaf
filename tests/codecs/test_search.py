"""The search for a step: within the budget, near it where steps can be, and written in few digits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerpress import ConfigError
from flowerpress.codecs.search import search


@given(st.floats(1e-12, 1e9), st.floats(0.3, 4), st.floats(0.2, 5))
def test_powers_of_the_step(scale: float, power: float, wrong: float) -> None:
    tried = []

    def used(step: float) -> float:
        tried.append(step)
        return (step / scale) ** -power

    step = search(used, lambda share: wrong * scale * share ** (-1 / power), rising=False)
    assert 0.98 <= used(step) <= 1
    assert len(tried) < 8
    assert all(float(f"{s:.3e}") == s and len(f"{s!r}".replace(".", "").split("e")[0].strip("0")) <= 4 for s in tried)


@pytest.mark.parametrize("limit", [0.712345, 3.00005e-7, 91234.5])
@pytest.mark.parametrize("rising", [True, False])
def test_a_jump_is_met_from_the_side_within_the_budget(limit: float, rising: bool) -> None:
    tried = []

    def used(step: float) -> float:
        tried.append(step)
        share = 0.97 * (step / limit) ** (5 if rising else -5)
        return share if share < 0.97 else share + 1

    step = search(used, lambda share: limit * 1.7, rising=rising)
    assert abs(step / limit - 1) < 0.01
    assert len(tried) == len(set(tried)) < 20


def test_what_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match="cannot be met"):
        search(lambda step: 1.5, lambda share: 1.0, rising=False)
