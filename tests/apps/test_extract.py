"""Federated extraction, in this process: what is gathered is what one machine would have made of all images."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict

from flowerpress import Bundle, ChunkError, ConfigError, RunError, pack
from flowerpress.apps import extract, inprocess, picture, report
from flowerpress.apps.client_app import app as client
from flowerpress.apps.encoders import Digits
from flowerpress.apps.gathered import ZARR, Gathered
from flowerpress.apps.results import read_rounds
from flowerpress.apps.server_app import app as server
from flowerpress.extraction.encoder import Encoder
from tests.apps.test_config import DEFAULTS
from tests.federation.local_grid import LocalGrid

SMALL: dict[str, Any] = {"batch-size": 8, "reply-bytes": 8 * 176 * 4}
COUNTS = (30, 0, 47, 5)


def images(client_number: int) -> np.ndarray:
    rng = np.random.default_rng(client_number)
    return rng.random((COUNTS[client_number], 1, 8, 8), np.float32)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an encoder, which has more weights than are needed, and the images of four clients."""
    torch.manual_seed(0)
    weights = {key: x.numpy() for key, x in Digits().state_dict().items()}
    (tmp_path / "model.fpb").write_bytes(pack({**weights, "fc2.weight": np.zeros((10, 176), np.float32)}))
    for number in range(len(COUNTS)):
        with h5py.File(tmp_path / f"client-{number}.h5", "w") as file:
            file["train"] = images(number)
    monkeypatch.setattr(extract, "_PAUSE", 0.0)
    monkeypatch.setattr(extract, "_PATIENCE", 1.5)
    return tmp_path


def central() -> np.ndarray:
    """Return the latents of all clients, made by one plain loop over batches of the same size."""
    torch.manual_seed(0)
    model, rows = Digits().eval(), []
    with torch.no_grad():
        for number in range(len(COUNTS)):
            data = torch.from_numpy(images(number)).repeat(1, 3, 1, 1)
            rows += [model(batch) for batch in data.split(32) if len(batch)]
    return torch.cat(rows).numpy()


def config(place: Path, **more: Any) -> dict[str, Any]:
    return {
        **DEFAULTS,
        "task": "extract",
        "encoder": str(place / "model.fpb"),
        "images": str(place / "client-{partition}.h5"),
        "output-dir": str(place / "run"),
        "torch-threads": 1,
        "latent-codec": "zstd",
        **more,
    }


def run(place: Path, grid: LocalGrid | None = None, **more: Any) -> LocalGrid:
    """Run the server app; return the grid."""
    options = config(place, **more)
    grid = grid or LocalGrid(dict.fromkeys(range(1, len(COUNTS) + 1), client))
    for context in grid.contexts.values():
        context.run_config = options
    server(grid, Context(1, 1, {}, RecordDict(), options))
    return grid


def gathered(place: Path) -> tuple[np.ndarray, list[int], list[int]]:
    group: Any = zarr.open_group(place / "run" / ZARR, mode="r")
    return group["latents"][...], group["client"][...].tolist(), group["index"][...].tolist()


def check(place: Path) -> None:
    """Check that all is there, bit by bit, and nothing else."""
    latents, clients, index = gathered(place)
    assert np.array_equal(latents, central())
    assert clients == [number for number, count in enumerate(COUNTS) for _ in range(count)]
    assert index == [i for count in COUNTS for i in range(count)]
    assert not (place / "run" / "parts").exists()


def test_rows_are_those_of_a_central_extraction(place: Path) -> None:
    grid = run(place)
    check(place)
    (row,) = read_rounds(place / "run")
    assert (row["images"], row["of"], row["failures"]) == (82, 82, 0)
    assert row["up-raw-bytes"] >= 82 * 176 * 4
    assert grid.bytes > 4 * 0.5e6
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert (summary["task"], summary["images"], summary["codec"]) == ("extract", 82, "zstd")


def test_a_lossy_codec_keeps_its_bound(place: Path) -> None:
    run(place, **{"latent-codec": "quantize(bound=1e-3) | entropy"})
    latents, _, _ = gathered(place)
    assert 0 < abs(latents - central()).max() <= 1e-3


def test_the_encoder_is_sent_once_and_replies_are_bounded(place: Path) -> None:
    run(place, **SMALL)
    latents, _, _ = gathered(place)
    assert np.allclose(latents, central(), atol=1e-5)
    rounds = read_rounds(place / "run")
    assert [row["images"] for row in rounds] == [21, 37, 53, 67, 75, 82]
    assert rounds[1]["down-bytes"] < 0.01 * rounds[0]["down-bytes"]
    assert all(row["up-raw-bytes"] < 4 * 8 * 176 * 4 + 1000 for row in rounds)


def test_a_client_that_fails_is_asked_again(place: Path) -> None:
    """One is lost for some questions, and comes back under another node id with the images that it had."""
    sent: list[tuple[int, int]] = []

    class Changing(LocalGrid):
        def get_node_ids(self) -> list[int]:
            nodes = [1, 2, 3, 4]
            if 3 <= self.asked <= 4:
                nodes.remove(3)
            if self.asked > 4:
                nodes[2] = 9
            self.asked += 1
            return nodes

        asked = 0

    def lost(node: int, reply: Message) -> Message:
        latents = reply.content.array_records["latents"] if reply.has_content() else {}
        if node == 3 and grid.asked == 2:
            return Message(Error(20, "the node is gone"), reply_to=reply)
        sent.append((node, sum(len(array.data) for array in latents.values())))
        return reply

    grid = Changing(dict.fromkeys((1, 2, 3, 4, 9), client), damage=lost)
    grid.contexts[9].node_config["partition-id"] = 2
    for context in grid.contexts.values():
        context.node_config["num-partitions"] = 4
    run(place, grid, **SMALL)
    assert np.allclose(gathered(place)[0], central(), atol=1e-5)
    assert gathered(place)[2] == [i for count in COUNTS for i in range(count)]


def test_a_run_that_was_stopped_goes_on_behind_what_arrived(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = extract._Questions.ask

    def stopped(self: Any, number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt
        ask(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(extract._Questions, "ask", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(place, **SMALL)
    assert not (place / "run" / ZARR).exists()
    run(place, resume=True, **SMALL)
    assert np.allclose(gathered(place)[0], central(), atol=1e-5)
    assert [row["images"] for row in read_rounds(place / "run")] == [21, 37, 53, 67, 75, 82]
    assert [row["round"] for row in read_rounds(place / "run")] == [1, 2, 3, 4, 5, 6]


def test_latents_of_another_encoder_are_not_mixed_in(place: Path) -> None:
    other = Gathered(place / "run", "0" * 16)
    other.add(0, 0, 30, np.zeros((30, 176), np.float32))
    run(place)
    check(place)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("missing", "no such file"), ("damaged", "expected an HDF5 file"), ("partition", "expected a partition among")],
)
def test_a_client_without_images(kind: str, words: str, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The others' latents are kept; with its images there, the run goes on."""
    path = place / "client-2.h5"
    good = path.read_bytes()
    path.write_bytes(b"damaged")
    if kind == "missing":
        path.unlink()
    if kind == "partition":
        path.write_bytes(good.replace(b"train", b"drain"))
    with pytest.raises(RunError, match=r"latents are missing, by client: \{2: -1\}; .*resume"):
        run(place)
    assert words in caplog.text
    path.write_bytes(good)
    run(place, resume=True)
    check(place)


def test_a_node_may_have_its_images_elsewhere(place: Path) -> None:
    (place / "client-2.h5").rename(place / "mine.h5")
    grid = LocalGrid(dict.fromkeys(range(1, 5), client))
    grid.contexts[3].node_config["images"] = str(place / "mine.h5")
    run(place, grid)
    check(place)


def test_clients_keep_their_latents(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made once for each encoder, and anew for other images."""
    more = {**SMALL, "latents": str(place / "kept-{partition}.h5")}
    made, over = [], Encoder.over

    def counted(self: Encoder, loader: Any, name: str) -> Any:
        made.append(name)
        return over(self, loader, name)

    monkeypatch.setattr(Encoder, "over", counted)
    run(place, **more)
    assert np.allclose(gathered(place)[0], central(), atol=1e-5)
    assert len(made) == 4
    with h5py.File(place / "kept-2.h5") as file:
        (name,) = file
        assert np.allclose(file[name], central()[30:77], atol=1e-5)
    run(place, **more)
    assert len(made) == 4
    (place / "kept-2.h5").write_bytes(b"damaged")
    os.utime(place / "client-0.h5")
    os.utime(place / "kept-0.h5", (1, 1))
    run(place, **more)
    assert sorted(made[4:]) == [str(place / f"client-{number}.h5") for number in (0, 2)]
    assert np.allclose(gathered(place)[0], central(), atol=1e-5)


LIES: dict[str, Any] = {
    "start": lambda content: content["extracted"].update({"start": 3}),
    "negative": lambda content: content["extracted"].update({"start": -3}),
    "total": lambda content: content["extracted"].update({"total": 2}),
    "client": lambda content: content["extracted"].update({"client": 0}),
    "many": lambda content: content["extracted"].update({"clients": 10**9}),
    "none": lambda content: content["extracted"].clear(),
    "shape": lambda content: content.update(
        {"latents": ArrayRecord({"latents": Array(np.zeros((47, 9), np.float32))})}
    ),
    "scalar": lambda content: content.update({"latents": ArrayRecord({"latents": Array(np.array(3, np.float32))})}),
    "key": lambda content: content.update({"latents": ArrayRecord({"x": Array(np.zeros((47, 176), np.float32))})}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_client_that_lies_costs_its_own_latents(lie: str, place: Path) -> None:
    """Until it says the truth."""
    asked = []

    def lying(node: int, reply: Message) -> Message:
        if node == 3 and len(asked) < 2:
            asked.append(1)
            if lie != "client" or len(asked) > 1:  # of two who are the same client, the first counts
                LIES[lie](reply.content)
        return reply

    run(place, LocalGrid(dict.fromkeys(range(1, 5), client), damage=lying))
    check(place)


def test_parts_that_do_not_follow_each_other(tmp_path: Path) -> None:
    parts = Gathered(tmp_path, "e")
    parts.add(1, 0, 10, np.zeros((4, 3), np.float32))
    for start, total, rows in ((0, 10, 4), (5, 10, 1), (4, 11, 1), (4, 10, 7), (4, 10, 0)):
        with pytest.raises(ChunkError, match="client 1: expected latents from 4 on, of 10"):
            parts.add(1, start, total, np.zeros((rows, 3), np.float32))
    with pytest.raises(ChunkError, match=r"client 2: expected latents of float32\[3\], as others, found float64\[3\]"):
        parts.add(2, 0, 10, np.zeros((4, 3)))
    assert 2 not in parts.totals
    parts.add(1, 4, 10, np.ones((6, 3), np.float32))
    again = Gathered(tmp_path, "e")
    assert (again.rows(1), again.totals, again.missing(3)) == (10, {1: 10}, {0: -1, 2: -1})
    assert [len(part) for client_parts in again.nested().compute() for part in client_parts] == [4, 6]
    next((tmp_path / "parts" / "e").glob("1-*0-4-10.fpb")).unlink()
    assert Gathered(tmp_path, "e").rows(1) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"task": "dance"}, "a task among classify, extract, train-codec, found 'dance'"),
        ({"encoder": ""}, "expected encoder, an absolute path, found ''"),
        ({"images": "here"}, "expected images, an absolute path"),
        ({"output-dir": ""}, "expected output-dir, an absolute path"),
        ({"latent-codec": "nothing"}, "nothing"),
        ({"encoder-model": "resnet18"}, "expected weights of resnet18, found no 'encoder.conv1.weight'"),
    ],
)
def test_what_a_configuration_cannot_say(more: dict[str, Any], words: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run(place, **more)


def test_a_linear_probe(place: Path) -> None:
    """One layer, trained federatedly on what the encoder makes of the clients' digits; it is all that is sent."""
    short = {**DEFAULTS, "codec": "lossless", "num-server-rounds": 3, "dirichlet-alpha": 5.0}
    inprocess.run(short, clients=3, folder=place / "network")
    options = {**short, "encoder": str(place / "network" / "model.fpb"), "model": "linear"}
    found = inprocess.run(options, clients=3, folder=place / "probe")
    assert found.accuracy[-1] > 0.8
    assert Bundle.open(place / "probe" / "model.fpb").spec("1.weight").shape == (10, 176)
    with pytest.raises(ConfigError, match="found 1x176; tables of features need model='mlp' or 'linear'"):
        inprocess.run({**options, "model": "cnn"}, clients=4)


def test_a_picture_of_latents(place: Path) -> None:
    run(place)
    assert report.plot(place / "run").read_bytes().startswith(b"\x89PNG")
    assert "82/82" in " ".join(report.table(place / "run").columns[1].cells)  # type: ignore[arg-type]
    assert report.line(read_rounds(place / "run")[0]).startswith("round 1: latents of 82/82 images, sent ")


def test_principal_components() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)) * [3.0, 4.0, 0.0] + rng.normal(size=(200, 1)) * [0.4, -0.3, 0.0] + 7
    points, shares = picture.components(x)
    assert abs(np.corrcoef(points[:, 0], x @ [3, 4, 0])[0, 1]) > 0.9999
    assert shares[0] > 0.98
    assert shares.sum() == pytest.approx(1)
    assert picture.components(np.ones((3, 1)))[0].shape == (3, 2)
