import random

import numpy as np
import pytest
from tests.latent_codecs import reference

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs import rans_fast
from flowerpress.latent_codecs.cdf import gaussian_tables, quantized_cdf, scale_table
from flowerpress.latent_codecs.rans import Decoder, Encoder, Tables


@pytest.fixture(params=["plain", "compiled"], autouse=True)
def _loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run everything with both."""
    assert rans_fast.AVAILABLE
    monkeypatch.setattr(rans_fast, "MANY", 0 if request.param == "compiled" else 1 << 60)


def some_tables(rng: np.random.Generator, n: int = 9) -> Tables:
    cdf, lengths = np.zeros((n, 40), np.int32), rng.integers(3, 41, n).astype(np.int32)
    lengths[0] = 3  # one symbol and the escape
    for row, length in zip(cdf, lengths, strict=True):
        row[:length] = [0, *np.sort(rng.choice(np.arange(1, 65536), length - 2, replace=False)), 65536]
    return Tables(cdf, lengths, rng.integers(-30, 5, n).astype(np.int32))


def coded(symbols: np.ndarray, rows: np.ndarray, tables: Tables) -> bytes:
    encoder = Encoder()
    encoder.put(symbols, rows, tables)
    return encoder.finish()


def decoded(stream: bytes, rows: np.ndarray, tables: Tables) -> np.ndarray:
    decoder = Decoder(stream)
    found = decoder.get(rows, tables)
    decoder.finish()
    return found


@pytest.mark.parametrize("seed", range(40))
def test_streams_are_those_of_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables, n = some_tables(rng), int(rng.integers(0, 400))
    rows, spread = rng.integers(0, 9, n), int(rng.choice([3, 30, 10**5, 2**31 - 1]))
    symbols = rng.integers(-spread, spread + 1, n)
    arguments = tables.cdf.tolist(), tables.lengths.tolist(), tables.offsets.tolist()
    stream = coded(symbols, rows, tables)
    assert stream == reference.encode(symbols.tolist(), rows.tolist(), *arguments)
    assert decoded(stream, rows, tables).tolist() == symbols.tolist()
    assert reference.decode(stream, rows.tolist(), *arguments) == symbols.tolist()


def test_a_million_symbols_with_escapes_at_every_table() -> None:
    rng = np.random.default_rng(0)
    tables = gaussian_tables(tuple(scale_table().tolist()))
    rows = rng.integers(0, 64, 10**6)
    symbols = np.rint(rng.normal(size=10**6) * scale_table().numpy()[rows]).astype(np.int64)
    for far in (-(2**31), 2**31 - 1, -4000, 4000):
        symbols[rng.choice(10**6, 64, replace=False)] = far
    for row in range(64):
        where = np.flatnonzero(rows == row)[:4]
        edge = -int(tables.offsets[row])
        symbols[where] = [edge, -edge, edge + 1, -edge - 1]  # the last inside, the first outside
    assert (decoded(coded(symbols, rows, tables), rows, tables) == symbols).all()


def test_parts_go_into_one_stream() -> None:
    rng = np.random.default_rng(1)
    first, second, encoder = some_tables(rng), some_tables(rng), Encoder()
    parts = [
        (rng.integers(-9, 9, n), rng.integers(0, 9, n), tables) for n, tables in ((5, first), (0, first), (7, second))
    ]
    for part in parts:
        encoder.put(*part)
    decoder = Decoder(encoder.finish())
    for symbols, rows, tables in parts:
        assert (decoder.get(rows, tables) == symbols).all()
    decoder.finish()


def test_no_symbols_and_one() -> None:
    tables = some_tables(np.random.default_rng(2))
    none = np.empty(0, np.int64)
    assert coded(none, none, tables) == bytes.fromhex("0000008000000000")
    assert decoded(coded(none, none, tables), none, tables).size == 0
    for symbol in (0, -(2**31), 2**31 - 1):
        stream = coded(np.array([symbol]), np.array([0]), tables)
        assert decoded(stream, np.array([0]), tables).tolist() == [symbol]


@pytest.mark.parametrize("symbol", [2**31, -(2**31) - 1])
def test_symbols_beyond_32_bits_are_refused(symbol: int) -> None:
    with pytest.raises(ConfigError, match="32 bits"):
        Encoder().put(np.array([symbol]), np.array([0]), some_tables(np.random.default_rng(0)))


def test_damaged_streams_are_errors() -> None:
    rng = np.random.default_rng(3)
    tables, rows = some_tables(rng), rng.integers(0, 9, 200)
    stream = coded(rng.integers(-50, 50, 200), rows, tables)
    for bad in (b"", stream[:4], stream[:7], stream[:-4], stream[:-1], stream + b"\0\0\0\0", stream[4:]):
        with pytest.raises(ChunkError):
            decoded(bad, rows, tables)
    for fewer in (rows[:-1], rows[:0]):
        with pytest.raises(ChunkError, match="does not end"):
            decoded(stream, fewer, tables)


def test_20000_changed_streams_are_errors_or_other_symbols() -> None:
    rng, dice = np.random.default_rng(4), random.Random(4)
    tables, rows = some_tables(rng), rng.integers(0, 9, 60)
    stream, noticed = coded(rng.integers(-50, 50, 60), rows, tables), 0
    for _ in range(20_000):
        bad = bytearray(stream)
        for _ in range(dice.randint(1, 4)):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        if dice.random() < 0.2:
            bad = bad[: dice.randrange(len(bad) + 1)]
        try:
            found = decoded(bytes(bad), rows, tables)
        except ChunkError:
            noticed += 1
        else:
            assert found.shape == rows.shape
            assert (np.abs(found) < 2**40).all()
    assert noticed > 19_000  # the others are as they were, or changed in a nibble of an escape


@pytest.mark.parametrize(
    ("rows", "lengths"),
    [
        ([[0, 5, 65536]], [2]),
        ([[0, 0, 65536]], [3]),
        ([[1, 5, 65536]], [3]),
        ([[0, 9, 5, 65536]], [4]),
        ([[0, 65536]], [9]),
    ],
)
def test_tables_that_do_not_rise_are_refused(rows: list, lengths: list) -> None:
    with pytest.raises(ConfigError, match=r"update\(\)"):
        Tables(np.array(rows, np.int32), np.array(lengths, np.int32), np.zeros(len(rows), np.int32))


def test_counts_are_stolen_from_the_smallest_bin_that_has_some() -> None:
    pmf = np.array([0.7, 1e-9, 0.2, 1e-9, 0.1, 0.0], np.float32)
    assert np.diff(quantized_cdf(pmf)).tolist() == [45875, 1, 13107, 1, 6551, 1]


@pytest.mark.parametrize("pmf", [[0, 0], [0.5, float("nan")], [-0.1, 1.1], [float("inf"), 1]])
def test_what_are_no_probabilities_is_refused(pmf: list) -> None:
    with pytest.raises(ConfigError, match="probabilities"):
        quantized_cdf(np.array(pmf, np.float32))
