"""Options of encoders."""

import json
import re
from pathlib import Path

import pytest

from flowerpress import ConfigError
from flowerpress.extraction import Params, load_opt, option_preprocess
from flowerpress.extraction.options import MODELS
from tests.extraction.samples import NAME, OPTIONS, options


def test_options_are_attributes(tmp_path: Path) -> None:
    opt = Params(options(tmp_path, learning_rate=0.5))
    assert (opt.learning_rate, opt.dict["trial"]) == (0.5, 5)
    opt.dict["trial"] = 6
    assert opt.trial == 6
    unset = ("nenya_data", "data_folder", "model_name", "warmup_from", "warmup_to", "warmup_epochs", "cuda_use")
    assert {getattr(opt, name) for name in (*unset, "valid_freq", "save_freq", "model_folder", "latents_folder")} == {
        None
    }
    with pytest.raises(AttributeError, match=r"no 'rate'; they have .*learning_rate"):
        _ = opt.rate


def test_options_are_saved_and_updated(tmp_path: Path) -> None:
    opt = Params(options(tmp_path))
    opt.learning_rate = 0.7
    opt.save(tmp_path / "saved.json")
    assert Params(tmp_path / "saved.json").dict == opt.dict
    (tmp_path / "more.json").write_text('{"trial": 9, "new": [1, 2]}')
    opt.update(tmp_path / "more.json")
    assert (opt.trial, opt.new, opt.learning_rate) == (9, [1, 2], 0.7)
    opt.bad = object()
    with pytest.raises(TypeError):
        opt.save(tmp_path / "saved.json")
    assert Params(tmp_path / "saved.json").learning_rate == 0.7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more.json", "opts.json", "saved.json"]


@pytest.mark.parametrize(
    ("text", "words"), [("{", "as JSON"), ("[1]", "found list"), ('{"save": 1}', "cannot be called save")]
)
def test_files_that_are_no_options(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        Params(tmp_path / "bad.json")
    with pytest.raises(OSError, match="none"):
        Params(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("more", "end"),
    [({}, "_cosine"), ({"cosine": False, "warm": True}, "_warm"), ({"batch_size_train": 512}, "_cosine_warm")],
)
def test_names_of_folders(more: dict[str, object], end: str, tmp_path: Path) -> None:
    opt = option_preprocess(Params(options(tmp_path, **more)))
    name = NAME.removesuffix("_cosine").replace("bsz_64", f"bsz_{opt.batch_size_train}") + end
    assert (opt.model_name, opt.model_folder) == (name, f"models/ROOT/{name}")
    assert opt.latents_folder == f"latents/ROOT/{name}"
    assert opt.lr_decay_epochs == [700, 800, 900]
    assert option_preprocess(opt).model_name == name
    assert not list(tmp_path.glob("*/"))


def test_options_that_name_no_folder(tmp_path: Path) -> None:
    (tmp_path / "few.json").write_text(json.dumps({"ssl_model": "resnet18", "model_root": "R"}))
    with pytest.raises(ConfigError, match=r"expected ssl_method, learning_rate, .* or model_folder"):
        option_preprocess(Params(tmp_path / "few.json"))
    (tmp_path / "few.json").write_text(json.dumps({"model_folder": "m", "latents_folder": "l"}))
    assert option_preprocess(Params(tmp_path / "few.json")).model_folder == "m"
    with pytest.raises(ConfigError, match="data_folder beside nenya_data"):
        option_preprocess(Params(options(tmp_path, nenya_data=True)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batch_size_valid", value) for value in ("4", 2.5, True)),
        ("batch_size_train", "64"),
        ("num_workers", "1"),
        ("feat_dim", "x"),
        ("feat_dim", -1),
        ("lr_decay_epochs", "a,b"),
        ("model_path", 5),
        *(("ssl_model", value) for value in (5, ":x", ".a:x", "a:")),
    ],
)
def test_values_of_the_wrong_kind(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"options: expected {name}.*, found {re.escape(repr(value))}"):
        load_opt(str(options(tmp_path, **{name: value})))


def test_encoders_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt, path = load_opt("v5")
    name = "SimCLR_resnet50_lr_0.05_decay_0.0001_bsz_256_temp_0.07_trial_5_cosine_warm"
    assert path == f"s3://modis-l2/SSL/models/MODIS_R2019_v4/{name}/last.pth"
    assert (opt.feat_dim, opt.batch_size_valid, opt.data_folder) == (256, 128, None)
    for bad in ("v99", "", "..", str(tmp_path)):
        with pytest.raises(IOError, match="expected an encoder among v5"):
            load_opt(bad)
    opt, path = load_opt(str(options(tmp_path)))
    assert path == f"{tmp_path}/models/ROOT/{NAME}/last.pth"
    (tmp_path / "mine.json").write_text(json.dumps({**OPTIONS, "s3_outdir": "s3://b/", "model_path": "s3://b/x.pth"}))
    monkeypatch.setenv(MODELS, str(tmp_path))
    assert load_opt("mine")[1] == "s3://b/x.pth"
    with pytest.raises(IOError, match="among mine, opts, v5"):
        load_opt("v4")
