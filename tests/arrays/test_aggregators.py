"""Ready aggregators, over ndarrays and tensors."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch
from tests.samples import of_dtype

from flowerpress.arrays.aggregators import (
    ConcatAggregator,
    Flat,
    MeanAggregator,
    NestedConcatAggregator,
    ReduceAggregator,
)
from flowerpress.arrays.lazy import LazyChunkSequence, NestedLazyChunkSequence
from flowerpress.errors import ConfigError

ROWS = [[of_dtype("float32", (2, 3)), of_dtype("float32", (2, 1))], [of_dtype("float32", (5, 4))]]
WHOLE = np.concatenate([np.concatenate(row, axis=1) for row in ROWS])


def lazy(*chunks: Any) -> LazyChunkSequence[Any]:
    return LazyChunkSequence(lambda: (chunk for chunk in chunks))


def nested(*rows: Any) -> NestedLazyChunkSequence[Any]:
    return NestedLazyChunkSequence(lambda: ((chunk for chunk in row) for row in rows))


def test_concatenation() -> None:
    assert np.array_equal(lazy(WHOLE[:2], WHOLE[2:]).compute(ConcatAggregator()), WHOLE)
    assert np.array_equal(nested(*ROWS).compute(NestedConcatAggregator()), WHOLE)


def test_concatenation_of_tensors() -> None:
    rows = [[torch.from_numpy(x) for x in row] for row in ROWS]
    found = nested(*rows).compute(NestedConcatAggregator())
    assert torch.equal(found, torch.from_numpy(WHOLE))
    found = lazy(torch.ones(2, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)).compute(ConcatAggregator())
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "chunks", [[WHOLE, WHOLE[:, :2]], [WHOLE, WHOLE[0]], [WHOLE, WHOLE.astype(np.float64)], [WHOLE, torch.ones(2, 2)]]
)
def test_chunks_that_do_not_fit_together(chunks: list[Any]) -> None:
    with pytest.raises(ConfigError, match="expected chunks that differ in axis 0 alone"):
        lazy(*chunks).compute(ConcatAggregator())


@pytest.mark.parametrize(
    ("aggregator", "words"),
    [(ConcatAggregator(), "one chunk"), (MeanAggregator(), "one row"), (ReduceAggregator(max), "one chunk")],
)
def test_nothing_comes(aggregator: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"expected at least {words}, found none"):
        lazy().compute(aggregator)
    with pytest.raises(ConfigError, match=f"expected at least {words}, found none"):
        nested([], []).compute(Flat(aggregator))


def test_mean_is_that_of_all_rows_in_float64() -> None:
    x = np.full((1000, 2), 0.1, np.float32)
    x[:, 1] = 16777217  # float32 sums stop growing there
    found = lazy(x[:1], x[1:700], x[700:]).compute(MeanAggregator())
    assert found.dtype == np.float64
    assert np.array_equal(found, x.astype(np.float64).sum(0) / 1000) or np.allclose(found, x[0], rtol=1e-12)
    tensors = [torch.tensor(x[:300]).to(torch.bfloat16), torch.tensor(x[300:]).to(torch.bfloat16)]
    found = lazy(*tensors).compute(MeanAggregator())
    assert found.dtype == torch.float64
    assert found[0] == pytest.approx(float(tensors[0][0, 0]), rel=1e-12)


def test_mean_of_complex_numbers() -> None:
    x = np.array([[1 + 2j, 3j], [3 - 4j, 1]], np.complex64)
    for chunks in ((x[:1], x[1:]), (torch.tensor(x[:1]), torch.tensor(x[1:]))):
        found = lazy(*chunks).compute(MeanAggregator())
        assert str(found.dtype).removeprefix("torch.") == "complex128"
        assert found.tolist() == [2 - 1j, 0.5 + 1.5j]


def test_reduction_holds_one_chunk() -> None:
    largest = lazy(*ROWS[0], ROWS[1][0]).compute(ReduceAggregator(lambda most, x: max(most, x.max()), initial=-1e9))
    assert largest == WHOLE.max()
    assert lazy(1, 2, 3).compute(ReduceAggregator(lambda a, b: 10 * a + b)) == 123
    assert lazy().compute(ReduceAggregator(max, initial=5)) == 5


def test_flat() -> None:
    class Count(ReduceAggregator):
        def __init__(self) -> None:
            super().__init__(lambda n, _: n + 1, 0)

        def __call__(self, tensor_generator: Generator[Any, None, None]) -> Any:
            assert isinstance(tensor_generator, Generator)
            return super().__call__(tensor_generator)

    assert nested(*ROWS).compute(Flat(Count())) == 3
