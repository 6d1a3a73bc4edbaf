import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerpress import ChunkError
from flowerpress.codecs import ans

RNG = np.random.default_rng(21)


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float((counts * np.log2(symbols.size / counts)).sum()) / 8


def block(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return symbols, ans.weights(ans.table(np.bincount(symbols)))


def test_small_frequencies_are_exact_and_others_near() -> None:
    for counts in (np.arange(32), np.arange(1, 256) * 1990, np.array([31 << 14, 1, 0, 17, 33, 63, 1023, 500_000])):
        found = ans.weights(ans.table(counts))
        assert found.size == np.flatnonzero(counts)[-1] + 1
        assert (np.abs(found - counts[: found.size]) <= counts[: found.size] / 32).all()
    assert ans.weights(ans.table(np.arange(32))).tolist() == list(range(32))


@given(st.lists(st.integers(0, 2**50), max_size=40))
def test_any_counts(counts: list[int]) -> None:
    table = ans.table(np.array(counts, np.int64))
    found = ans.weights(table)
    wanted = np.trim_zeros(np.array(counts, np.float64), "b")
    assert found.size == len(table) == wanted.size
    assert ((found > 0) == (wanted > 0)).all()
    if wanted.size:
        scaled = np.ceil(wanted * min(1.0, (31 << 14) / wanted.max()))
        assert (np.abs(found - scaled) <= scaled / 32).all()


def test_tables_are_of_one_byte_per_symbol_and_end_with_the_last_that_occurs() -> None:
    assert ans.table(np.array([0, 0, 5, 0, 2, 0, 0])) == bytes([0, 0, 5, 0, 2])
    assert ans.table(np.zeros(9, np.int64)) == ans.table(np.array([], np.int64)) == b""
    assert ans.weights(bytes([255])).tolist() == [31 << 14]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("size", [10, 3000, 300_000])
def test_within_a_hundredth_of_the_entropy(share: float, size: int) -> None:
    symbols = np.minimum(RNG.geometric(1 - share, size) - 1, 200)
    coded = ans.compress([block(symbols)])
    assert len(coded) <= 1.01 * entropy_bytes(symbols) + 8
    assert np.array_equal(ans.Reader(coded).take(block(symbols)[1], size), symbols)


def test_blocks_of_one_symbol_cost_nothing() -> None:
    other = RNG.integers(0, 9, 1000)
    blocks = [
        block(np.full(10**6, 3)),
        block(other),
        block(np.zeros(5, np.int64)),
        (np.array([], np.int64), np.ones(3)),
    ]
    coded = ans.compress(blocks)
    assert coded == ans.compress([block(other)])
    assert ans.compress(blocks[:1]) == b""
    reader = ans.Reader(coded)
    for symbols, weighted in blocks:
        assert np.array_equal(reader.take(weighted, symbols.size), symbols)
    reader.close()


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=60).map(lambda s: np.array(s, np.int64)), max_size=5),
)
def test_blocks_come_back_in_order(found: list[np.ndarray]) -> None:
    blocks = [block(symbols) for symbols in found]
    reader = ans.Reader(ans.compress(blocks))
    for symbols, weighted in blocks:
        assert np.array_equal(reader.take(weighted, symbols.size), symbols)
    reader.close()


def test_words_that_are_left_over_are_refused() -> None:
    symbols = RNG.integers(0, 9, 100)
    reader = ans.Reader(ans.compress([block(symbols)]))
    reader.take(block(symbols)[1], 60)
    with pytest.raises(ChunkError, match="go on behind the last symbol"):
        reader.close()


@pytest.mark.parametrize("words", [b"\0", b"abc", bytes(4), b"\1\0\0\0" + bytes(4)])
def test_what_are_no_words(words: bytes) -> None:
    with pytest.raises(ChunkError, match="words"):
        ans.Reader(words)


@given(st.binary(max_size=64), st.binary(max_size=255), st.integers(0, 500))
def test_any_bytes_give_symbols_or_an_error_of_ours(words: bytes, table: bytes, count: int) -> None:
    try:
        found = ans.Reader(words).take(ans.weights(table), count)
    except ChunkError:
        assert len(words) % 4 or words[-4:] == bytes(4) or (count and not any(table))
        return
    assert (found.dtype, found.shape) == (np.int32, (count,))
    assert not count or 0 <= found.min() <= found.max() < len(table)
