"""Latents of files: one by one, and many."""

import logging
import os
import shutil
import signal
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from flowerpress import ChunkError, ConfigError, RunError
from flowerpress.extraction import (
    Params,
    build_loader,
    calc_latent,
    load_opt,
    main,
    model_latents_extract,
    option_preprocess,
    prep,
)
from flowerpress.extraction.inference import encoded
from tests.extraction.damage import damage
from tests.extraction.samples import NAME, checkpoint, expected, images, options, read, ready, same, write

MODEL = ready()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with options and a checkpoint; the working directory is another one, that stays empty."""
    (tmp_path / "out").mkdir()
    options(tmp_path / "out")
    checkpoint(tmp_path / "out", MODEL)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def latents(place: Path, name: str) -> Path:
    return place / "out" / "latents" / "ROOT" / NAME / name


def check_only(place: Path, *names: str) -> None:
    """Check that these files of latents are there, and nothing else was left anywhere."""
    assert sorted(path.name for path in latents(place, ".").glob("*")) == sorted(names)
    assert not list((place / "out").rglob(".*"))
    assert not list(Path.cwd().iterdir())


# ---- one batch, one file


def test_a_batch() -> None:
    batch = torch.from_numpy(np.repeat(images(3), 3, axis=1))
    model = ready().train()
    found = calc_latent(model, batch, False)
    assert (found.dtype, found.shape, model.training) == (np.float32, (3, 5), False)
    assert np.allclose(found, expected(MODEL, images(3)), atol=1e-6)
    assert isinstance(found, np.ndarray)


def test_who_takes_latents_may_train_meanwhile() -> None:
    batch = torch.from_numpy(np.repeat(images(3), 3, axis=1))
    for _ in encoded(ready(), [batch, batch, batch], using_gpu=False):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_models_of_other_shapes_and_dtypes() -> None:
    batch = torch.randn(2, 3, 6, 6, dtype=torch.float32)
    assert calc_latent(nn.Conv2d(3, 7, 3), batch, False).shape == (2, 7, 4, 4)
    low = next(encoded(nn.Conv2d(3, 7, 3), [batch], using_gpu=False, mixed_precision=True))
    assert low.dtype == np.float32
    for model, words in ((nn.LSTM(6, 2), "found tuple"), (nn.Flatten(0), r"2 rows .* found shape \[216\]")):
        with pytest.raises(ConfigError, match=words):
            calc_latent(model, batch if words != "found tuple" else batch[0], False)


def test_the_latents_of_a_file(place: Path) -> None:
    data = {"train": images(10), "valid": images(3, seed=1), "other": images(2)}
    path = write(place / "a_preproc.h5", **data)
    opt, model_path = load_opt(str(place / "out" / "opts.json"))
    found = model_latents_extract(opt, path, model_path)
    assert same(found, {name: expected(MODEL, data[name]) for name in ("train", "valid")})
    assert found["train"].dtype == np.float32
    assert same(
        model_latents_extract(opt, str(path), model_path, True, None, ("other", "none")),
        {"other": expected(MODEL, data["other"])},
    )
    some = model_latents_extract(opt, path, model_path, allowed_indices={"train": {4, 2}, "valid": []})
    assert same({"train": some["train"]}, {"train": expected(MODEL, data["train"][[2, 4]])})
    assert some["valid"].shape == (0, 5)
    assert [len(x) for x in model_latents_extract(opt, path, model_path, debug=True).values()] == [8, 3]
    check_only(place)


def test_a_loader_and_a_model_of_ones_own(place: Path) -> None:
    data = images(5)
    path = write(place / "a.h5", train=data, valid=images(2))
    opt = option_preprocess(Params(place / "out" / "opts.json"))
    _, loader = build_loader(path, "train", 2, 0, [1, 0])
    found = model_latents_extract(opt, "unread.h5", "", in_loader=loader, model=MODEL)
    assert same(found, {"train": expected(MODEL, data[[1, 0]])})
    with pytest.raises(ConfigError, match="in_loader reads 'train': expected it as the only one"):
        model_latents_extract(opt, path, "", in_loader=loader, partitions=("valid",), model=MODEL)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(3, 3, 6, 6)), batch_size=2)
    found = model_latents_extract(opt, path, "", in_loader=batches, partitions=["mine"], model=MODEL)
    assert (list(found), found["mine"].shape) == (["mine"], (3, 5))
    with pytest.raises(ConfigError, match="does not say which partition"):
        model_latents_extract(opt, path, "", in_loader=batches, model=MODEL)
    with pytest.raises(ConfigError, match="model_path, or a model"):
        model_latents_extract(opt, path, "")


def test_mixed_precision_is_close(place: Path) -> None:
    path = write(place / "a.h5", train=images(6))
    opt = Params(options(place, mixed_precision=True))
    found = model_latents_extract(opt, path, "", model=MODEL)["train"]
    exact = expected(MODEL, images(6))
    assert found.dtype == np.float32
    assert 0 < abs(found - exact).max() < 0.05 * abs(exact).max()


# ---- many files


def test_files_one_after_the_other(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = {f"{name}_preproc.h5": {"train": images(9, seed=i), "valid": images(2)} for i, name in enumerate("ab")}
    for name, data in files.items():
        write(place / "in" / name, **data)
    sources = [str(place / "in" / name) for name in files]
    before = {source: Path(source).read_bytes() for source in sources}
    assert prep(option_preprocess(Params(place / "out" / "opts.json"))) == ("last.pth", [])
    assert main(str(place / "out" / "opts.json"), sources) is None
    for name, data in files.items():
        found = read(latents(place, name.replace("preproc", "latents")))
        assert same(found, {key: expected(MODEL, x) for key, x in data.items()})
    check_only(place, "a_latents.h5", "b_latents.h5")
    assert prep(option_preprocess(Params(place / "out" / "opts.json")))[1] == ["a_latents.h5", "b_latents.h5"]
    latents(place, "a_latents.h5").write_bytes(b"mine")
    with caplog.at_level(logging.INFO, "flowerpress"):
        main(place / "out" / "opts.json", sources)
    assert "is there already" in caplog.text
    assert latents(place, "a_latents.h5").read_bytes() == b"mine"
    main(place / "out" / "opts.json", sources[:1], clobber=True)
    assert read(latents(place, "a_latents.h5"))["train"].shape == (9, 5)
    assert {source: Path(source).read_bytes() for source in sources} == before


def test_debug_writes_nothing(place: Path) -> None:
    source = write(place / "in" / "a.h5", train=images(30))
    main(place / "out" / "opts.json", [str(source)], debug=True)
    check_only(place)


def test_no_name_leads_onto_an_input(place: Path) -> None:
    """The latents of a file without _preproc in its name have another name; where that is an input, nothing is done."""
    source = write(latents(place, "a.h5"), train=images(3))
    main(place / "out" / "opts.json", [str(source)])
    assert read(source)["train"].shape == (3, 1, 6, 6)
    assert read(latents(place, "a_latents.h5"))["train"].shape == (3, 5)
    for others in ([latents(place, "a_latents.h5")], [latents(place, ".") / ".." / NAME / "a_latents.h5"]):
        with pytest.raises(ConfigError, match="which is one of the files themselves"):
            main(place / "out" / "opts.json", [str(source), *map(str, others)], clobber=True)
    shutil.copy(source, place / "a.h5")
    with pytest.raises(ConfigError, match=r"would go to .* as those of"):
        main(place / "out" / "opts.json", [str(source), str(place / "a.h5")], clobber=True)
    check_only(place, "a.h5", "a_latents.h5")


def test_files_that_cannot_be_done_are_left_out_and_counted(place: Path) -> None:
    good = write(place / "in" / "good_preproc.h5", train=images(5))
    (place / "in" / "bad_preproc.h5").write_bytes(good.read_bytes()[:-100])
    write(place / "in" / "wide_preproc.h5", train=np.zeros((3, 6, 8)))
    write(place / "in" / "none_preproc.h5", other=images(3))
    damaged = place / "in" / "damaged_preproc.h5"
    with h5py.File(damaged, "w") as file:
        file.create_dataset("train", data=images(30), chunks=(2, 1, 6, 6), fletcher32=True)
        offset = file["train"].id.get_chunk_info(9).byte_offset
    content = bytearray(damaged.read_bytes())
    content[offset] ^= 1
    damaged.write_bytes(content)
    names = ("bad", "wide", "none", "damaged", "missing", "good")
    with pytest.raises(RunError, match="5 of 6 files could not be done") as error:
        main(place / "out" / "opts.json", [str(place / "in" / f"{name}_preproc.h5") for name in names])
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 5
    problems = ("cannot be read", "6x8", "expected partitions", "cannot be read", "no such file")
    for name, line, words in zip(names, lines, problems, strict=False):
        assert words in line
        assert line.count(f"{name}_preproc.h5") == 1
    check_only(place, "good_latents.h5")


def test_an_old_file_stays_until_the_new_one_is_whole(place: Path) -> None:
    source = write(place / "in" / "a.h5", train=images(5))
    main(place / "out" / "opts.json", [str(source)])
    before = latents(place, "a_latents.h5").read_bytes()
    write(source, train=np.zeros((3, 6, 8)))
    with pytest.raises(RunError):
        main(place / "out" / "opts.json", [str(source)], clobber=True)
    assert latents(place, "a_latents.h5").read_bytes() == before
    check_only(place, "a_latents.h5")


def test_a_checkpoint_in_the_working_directory_is_nobodys(place: Path) -> None:
    """Nenya takes whatever last.pth lies there."""
    torch.save({"model": ready(seed=9).state_dict()}, "last.pth")
    source = write(place / "in" / "a.h5", train=images(5))
    main(place / "out" / "opts.json", [str(source)])
    assert same(read(latents(place, "a_latents.h5")), {"train": expected(MODEL, images(5))})


def test_without_a_checkpoint_nothing_is_begun(place: Path) -> None:
    source = write(place / "in" / "a.h5", train=images(5))
    shutil.rmtree(place / "out" / "models")
    with pytest.raises(FileNotFoundError, match="expected the checkpoint of the encoder"):
        main(place / "out" / "opts.json", [str(source)])
    with pytest.raises(FileNotFoundError):
        main(place / "none.json", [str(source)])
    check_only(place)


def test_memory_does_not_grow_with_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are written as they come: at most two are there at once."""
    alive, most = set[int](), []

    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = x.flatten(1)[:, :5].clone()
            alive.add(id(made))
            most.append(len(alive))
            weakref.finalize(made, alive.discard, id(made))
            return made

    source = write(place / "in" / "a.h5", train=images(64))
    from flowerpress.extraction import latents as module

    monkeypatch.setattr(module.Encoder, "of", classmethod(lambda cls, *_: cls(Seen())))
    main(place / "out" / "opts.json", [str(source)])
    assert read(latents(place, "a_latents.h5"))["train"].shape == (64, 5)
    assert max(most) <= 3


def test_the_example_of_the_seed(place: Path) -> None:
    """As it stands there, but for the names of modules and files."""
    from flowerpress import extraction as nenya_io
    from flowerpress.extraction.latents import main, model_latents_extract

    pp_files = [str(write(place / f"data_file{i}_preproc.h5", train=images(3), valid=images(2))) for i in (1, 2)]
    main(str(place / "out" / "opts.json"), pp_files, clobber=False)
    opt, model_path = nenya_io.load_opt(str(place / "out" / "opts.json"))
    latent_dict: dict[str, Any] = model_latents_extract(opt, pp_files[0], model_path)
    assert (latent_dict["valid"].shape, latent_dict["train"].shape) == ((2, 5), (3, 5))
    check_only(place, "data_file1_latents.h5", "data_file2_latents.h5")


def test_a_worker_that_dies(place: Path) -> None:
    class Dying(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    loader = torch.utils.data.DataLoader(Dying(), num_workers=1)
    opt = Params(place / "out" / "opts.json")
    with pytest.raises(ChunkError, match="mine: expected a batch of images; reading it hung or crashed"):
        model_latents_extract(opt, "", "", in_loader=loader, partitions=["mine"], model=MODEL)


def test_damages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make e2e` makes five thousand."""
    outcomes = damage(tmp_path, 50, 7, monkeypatch)
    assert 0 < outcomes["done"] < sum(outcomes.values()) == 50
