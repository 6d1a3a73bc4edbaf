"""Latents from SuperNodes, one of which is killed and replaced; `make extract` does it with ten, and more."""

from pathlib import Path

import numpy as np
import zarr

from flowerpress import pack
from flowerpress.apps.encoders import Digits
from flowerpress.apps.gathered import ZARR
from flowerpress.apps.results import read_rounds
from tests.benchmarks.extract_digits import BOUND, central, extract, write_images


def test_a_client_is_killed_and_another_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "model.fpb").write_bytes(pack({key: x.numpy() for key, x in Digits().state_dict().items()}))
    options = write_images(tmp_path, 3) | {"encoder": str(tmp_path / "model.fpb")}
    assert extract(tmp_path / "run", 3, options) >= 1
    group = zarr.open_group(tmp_path / "run" / ZARR, mode="r")
    expected = list(central(options, 3))
    assert abs(group["latents"][...] - np.concatenate(expected)).max() <= BOUND
    assert group["client"][...].tolist() == [client for client, rows in enumerate(expected) for _ in rows]
    gathered = [row["images"] for row in read_rounds(tmp_path / "run")]
    assert gathered == sorted(gathered)
    assert len(set(gathered)) > 2
