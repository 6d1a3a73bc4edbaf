"""FedAvg into Zarr: the model of stock FedAvg, in slices."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp import strategy

from flowerpress import LatentRecord, PressGrid, RunError
from flowerpress.federation.chunkwise import ChunkwiseFedAvg
from flowerpress.federation.resume import Checkpointed
from tests.federation.apps import client, initial
from tests.federation.local_grid import LocalGrid

NODES = (71, 5, 930)


def run(made: Any, rounds: int = 3, codec: str = "lossless") -> ArrayRecord:
    grid = PressGrid(LocalGrid({node: client() for node in NODES}), codec)
    return made.start(grid=grid, initial_arrays=initial(), num_rounds=rounds).arrays


@pytest.mark.parametrize("codec", ["lossless", "small"])
def test_it_is_fedavg(codec: str, tmp_path: Path) -> None:
    stock, ours = run(strategy.FedAvg(), codec=codec), run(ChunkwiseFedAvg(folder=tmp_path), codec=codec)
    assert isinstance(ours, LatentRecord)
    assert list(ours) == list(stock)
    for key, array in stock.items():
        x, y = ours[key].numpy(), array.numpy()
        assert x.dtype == y.dtype
        assert np.allclose(x, y, rtol=1e-5, atol=1e-6), key
    assert len(list(tmp_path.iterdir())) == 1  # the models of other rounds are gone
    del ours, array, x, y
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_parameters_are_those_of_fedavg(tmp_path: Path) -> None:
    made = ChunkwiseFedAvg(fraction_train=0.5, min_train_nodes=1, folder=tmp_path)
    assert (made.fraction_train, made.min_train_nodes) == (0.5, 1)


def test_it_needs_a_press_grid() -> None:
    grid = LocalGrid({node: client(pressed=False) for node in NODES})
    with pytest.raises(RunError, match="expected replies that PressGrid brought"):
        ChunkwiseFedAvg().start(grid=grid, initial_arrays=initial(), num_rounds=1)


def test_nodes_without_the_mod_take_part(tmp_path: Path) -> None:
    found = []
    for made in (strategy.FedAvg(), ChunkwiseFedAvg(folder=tmp_path)):
        grid = PressGrid(LocalGrid({node: client(pressed=node != 5) for node in NODES}))
        found.append(made.start(grid=grid, initial_arrays=initial(), num_rounds=2).arrays)
    for key, array in found[0].items():
        assert np.allclose(array.numpy(), found[1][key].numpy(), rtol=1e-5, atol=1e-6), key


def test_it_goes_on(tmp_path: Path) -> None:
    whole = run(ChunkwiseFedAvg(), rounds=4)
    run(Checkpointed(ChunkwiseFedAvg(), tmp_path), rounds=2)
    found = run(Checkpointed(ChunkwiseFedAvg(), tmp_path, resume=True), rounds=4)
    assert {k: x.numpy().tobytes() for k, x in found.items()} == {k: x.numpy().tobytes() for k, x in whole.items()}
