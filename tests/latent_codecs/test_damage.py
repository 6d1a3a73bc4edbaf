import pytest
from tests.latent_codecs import tiny
from tests.latent_codecs.damage import cases, survive

CASES = cases(tiny)


@pytest.mark.parametrize("name", CASES)
def test_damaged_streams_are_errors_or_arrays_of_the_right_shape(name: str) -> None:
    """`tests/e2e/test_damage_streams.py` does it 20,000 times."""
    strings, decode, shape = CASES[name]
    assert tuple(decode(strings).shape) == shape
    assert survive(strings, decode, shape, times=150, seed=1) > 100
