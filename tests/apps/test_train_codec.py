"""Training a codec across clients, and on one machine; both with small numbers."""

import json
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch
import zarr
from flwr.app import Context, RecordDict
from typer.testing import CliRunner

from flowerpress import Bundle, ConfigError, Spec, parse
from flowerpress.apps import inprocess, report
from flowerpress.apps.client_app import app as client_app
from flowerpress.apps.config import Config
from flowerpress.apps.encoders import DigitsMaps
from flowerpress.apps.gathered import ZARR
from flowerpress.apps.results import read_rounds
from flowerpress.apps.server_app import app as server_app
from flowerpress.apps.train_codec import FILE
from flowerpress.arrays.files import arrays_to_file
from flowerpress.chunks.content import FOLDER
from flowerpress.cli import app
from flowerpress.latent_codecs import VitUnionLatentCodec
from tests.apps.test_config import DEFAULTS
from tests.federation.local_grid import LocalGrid

SMALL = {"num-server-rounds": 2, "local-epochs": 1, "batch-size": 64, "learning-rate": 0.003, "codec": "safe"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of three clients that trained a codec, with the network that made the features."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    arrays_to_file(DigitsMaps().state_dict(), folder / "network.fpb")
    inprocess.run(config(folder, task="train-codec", **SMALL), clients=3, folder=folder / "run")
    return folder


def headless(opt: Any) -> DigitsMaps:
    """Return an encoder that says nothing about what its features are for."""
    encoder = DigitsMaps()
    encoder.head = None  # type: ignore[assignment,method-assign]
    return encoder


def test_a_head_has_a_part_in_the_loss(trained: Path) -> None:
    options = {**SMALL, "num-server-rounds": 1, "head-weight": 5.0}
    inprocess.run(config(trained, task="train-codec", **options), clients=2, folder=trained / "headed")
    rounds = read_rounds(trained / "headed")
    assert rounds[0]["loss"] > rounds[0]["rate"] + rounds[0]["distortion"] + 0.001
    assert rounds[1]["loss"] < rounds[0]["loss"]


def config(folder: Path, **more: Any) -> dict[str, Any]:
    encoder = {"encoder": str(folder / "network.fpb"), "encoder-model": "flowerpress.apps.encoders:digits_maps"}
    return {**DEFAULTS, **encoder, "partitioner": "iid", **more}


def test_rounds_say_rate_and_distortion_and_fall(trained: Path) -> None:
    rounds = read_rounds(trained / "run")
    assert [row["round"] for row in rounds] == [0, 1, 2]
    assert rounds[2]["loss"] < rounds[0]["loss"]
    assert all(row["loss"] == pytest.approx(row["rate"] + row["distortion"]) for row in rounds)
    assert rounds[2]["up-bytes"] < 0.3 * rounds[2]["up-raw-bytes"]
    summary = report.summary_of(trained / "run")
    assert (summary["task"], summary["rate"]) == ("train-codec", rounds[2]["rate"])
    assert "bits/value" in [column.header for column in report.table(trained / "run").columns]
    assert "bits/value" in report.line(rounds[1])
    assert report.plot(trained / "run").stat().st_size > 10_000


def test_the_codec_codes_features(trained: Path) -> None:
    weights = Bundle.open(trained / "run" / FILE)
    model = Bundle.open(trained / "run" / "model.fpb")
    for key in model:
        if "quantiles" not in key:  # they are led to their places at the end
            assert np.array_equal(weights[key], model[key].astype(ml_dtypes.bfloat16).astype(np.float32))
    tokens = np.random.default_rng(0).random((5, 16, 64), np.float32)
    pipeline = parse(f"learned(weights='{trained / 'run' / FILE}')")
    found = pipeline.decode(bytes(pipeline.encode(tokens, Spec.of(tokens))), Spec.of(tokens))
    assert found.shape == tokens.shape


def test_clients_send_features_with_it(trained: Path, tmp_path: Path) -> None:
    """They are given the weights with the question: the file is the server's alone."""
    for client in range(3):
        with h5py.File(tmp_path / f"client-{client}.h5", "w") as file:
            file["train"] = np.random.default_rng(client).random((9 + client, 1, 8, 8), np.float32)
    codec = f"learned(weights='{trained / 'run' / FILE}')"
    images = {"images": str(tmp_path / "client-{partition}.h5"), "latent-codec": codec}
    options = config(trained, task="extract", **images, **{"output-dir": str(tmp_path / "run")})
    grid = LocalGrid(dict.fromkeys((1, 2, 3), client_app), run_config=options, caches=tmp_path / "caches")
    server_app(grid, Context(1, 1, {}, RecordDict(), options))
    assert len(list((tmp_path / "caches" / "2" / "weights").iterdir())) == 1
    group: Any = zarr.open_group(tmp_path / "run" / ZARR, mode="r")
    assert group["latents"].shape == (30, 16, 64)
    (row,) = read_rounds(tmp_path / "run")
    assert row["up-raw-bytes"] >= 30 * 16 * 64 * 4
    assert row["up-bytes"] < row["up-raw-bytes"] / 40
    assert row["down-raw-bytes"] > 3 * 1.3e6  # the weights


def test_a_codec_that_nobody_has_is_an_error(trained: Path, tmp_path: Path) -> None:
    for name in ("f" * 32, "nowhere.fpb"):
        more = {"images": str(tmp_path / "x.h5"), "latent-codec": f"learned(weights='{name}')"}
        with pytest.raises(ConfigError, match="no weights"):
            inprocess.run(config(trained, task="extract", **more), clients=2, folder=tmp_path / "run")


def test_encoders_and_codecs_that_do_not_fit_are_named(trained: Path) -> None:
    known, digits = config(trained, task="train-codec", **SMALL), "flowerpress.apps.encoders:digits"
    with pytest.raises(ConfigError, match=r"tokens \(n, L, C\), found \[359, 176\]"):
        inprocess.run({**known, "encoder-model": digits}, clients=2)
    with pytest.raises(ConfigError, match="a codec of tokens"):
        inprocess.run({**known, "codec-model": digits}, clients=2)
    with pytest.raises(ConfigError, match="encoder"):
        Config.read({**DEFAULTS, "task": "train-codec"})
    with pytest.raises(ConfigError, match="head-weight"):
        Config.read({**DEFAULTS, "head-weight": -1.0})
    headless = {"head-weight": 0.1, "encoder-model": f"{__name__}:headless"}
    with pytest.raises(ConfigError, match=r"a head of .*:headless"):
        inprocess.run({**known, **headless}, clients=2)
    with pytest.raises(ConfigError, match="distortion-weight"):
        Config.read({**DEFAULTS, "distortion-weight": 0.0})


@pytest.mark.parametrize("kind", ["npy", "zarr"])
def test_the_command_line_trains_on_one_machine(kind: str, tmp_path: Path) -> None:
    directions = np.random.default_rng(1).normal(size=(2, 32))
    tokens = (np.random.default_rng(0).normal(size=(40, 7, 2)) @ directions).astype(np.float32)
    source = tmp_path / f"features.{kind}"
    if kind == "npy":
        np.save(source, tokens)
    else:
        zarr.save_array(source, tokens)
    options = ["--epochs", "2", "--channels", "8", "--hyper-channels", "8", "--groups", "4", "--grid", "2", "3"]
    call = ["train-codec", str(source), str(tmp_path / "codec.fpb"), *options]
    done = CliRunner().invoke(app, [*call, "--format", "json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["parameters"] == sum(p.numel() for p in VitUnionLatentCodec(32, 8, 8, 4).parameters())
    text = f"learned(weights='{said['digest']}', grid=[2, 3])"
    data = parse(text).encode(tokens, Spec.of(tokens))
    assert parse(text).decode(bytes(data), Spec.of(tokens)).shape == tokens.shape
    shown = CliRunner().invoke(app, call)
    assert said["digest"] in shown.stdout
    assert CliRunner().invoke(app, ["cache", "weights", str(tmp_path / "codec.fpb")]).stdout.strip() == said["digest"]


def test_the_command_line_trains_codecs_of_planes(tmp_path: Path) -> None:
    planes = np.random.default_rng(0).random((4, 64, 64), np.float32)
    np.save(tmp_path / "planes.npy", planes)
    options = ["--model", "scale-hyperprior", "--channels", "4", "--hyper-channels", "4", "--epochs", "1"]
    call = ["train-codec", str(tmp_path / "planes.npy"), str(tmp_path / "codec.pt"), *options, "--format", "json"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    text = f"learned(model='scale-hyperprior', weights='{json.loads(done.stdout)['digest']}', bounds=[0.0, 1.0])"
    data = parse(text).encode(planes, Spec.of(planes))
    assert parse(text).decode(bytes(data), Spec.of(planes)).shape == planes.shape
    wrong = CliRunner().invoke(app, [*call, "--model", "other"])
    assert wrong.exit_code == 2
    assert "vit-union, scale-hyperprior, found 'other'" in wrong.stderr


def test_the_command_line_names_what_cannot_be_trained_on(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((4, 4, 4), np.int32))
    (tmp_path / "damaged.npy").write_bytes(b"no numbers")
    (tmp_path / "folder").mkdir()
    features = [("flat.npy", "features"), ("whole.npy", "features")]
    for name, said in [*features, *((name, ".npy file") for name in ("none.npy", "damaged.npy", "folder"))]:
        done = CliRunner().invoke(app, ["train-codec", str(tmp_path / name), str(tmp_path / "codec.fpb")])
        assert done.exit_code == 2
        assert said in done.stderr
    assert not (tmp_path / "codec.fpb").exists()
    done = CliRunner().invoke(app, ["train-codec", str(tmp_path / "flat.npy"), str(tmp_path / "codec.bin")])
    assert "expected a file that ends in" in done.stderr  # before anything is trained
