"""Codecs on a checkpoint of one's own."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flowerpress.bench import measure
from flowerpress.bench.measure import LINKS, Measured, candidates, measured, recommended
from flowerpress.bench.sample import Sample, sampled
from flowerpress.cli import app
from flowerpress.codecs.policy import Policy
from flowerpress.errors import ConfigError

RUN = CliRunner()


def before_and_after(rows: int = 300) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    before = {"w": rng.standard_normal((rows, 100), np.float32), "b": rng.standard_normal(100, np.float32)}
    after = {key: x + 0.001 * rng.standard_normal(x.shape, np.float32) for key, x in before.items()}
    return {**before, "steps": np.array(3)}, {**after, "steps": np.array(4)}


def row(pipeline: str, nbytes: int, error: float, seconds: float) -> Measured:
    return Measured(pipeline, not error, 10_000_000, nbytes, error, seconds / 2, seconds / 2)


def test_what_is_measured_is_what_pack_makes() -> None:
    before, after = before_and_after()
    found = measured("delta | budget(error=0.1)", sampled(after, before, 1 << 30))
    assert (found.lossless, found.raw_bytes) == (False, 4 * 30_100 + 8)
    assert 0.09 < found.error <= 0.1
    assert 0 < found.nbytes < found.raw_bytes / 6
    assert min(found.encode, found.decode) > 0
    exact = measured("lossless", sampled(after, before, 1 << 30))
    assert (exact.lossless, exact.error) == (True, 0.0)
    assert exact.seconds(1e6) == pytest.approx(exact.encode + 8e-6 * exact.nbytes + exact.decode)


def test_what_is_not_finite_is_no_error() -> None:
    found = measured("quantize(bits=8) | bitpack", sampled({"w": np.array([np.nan, 1.0, np.inf])}, {}, 1 << 30))
    assert found.error == 0


@pytest.mark.parametrize(("model", "base"), [(-np.inf, 1), (1, -np.inf), (-np.inf, -np.inf)])
def test_infinities_hide_no_error(model: float, base: float) -> None:
    before, after = before_and_after()
    text = "quantize(bits=2, block=64) | bitpack"
    expected = [measured(text, sampled(after, bases, 1 << 30)).error for bases in ({}, before)]
    before["mask"], after["mask"] = (np.full(4, value, np.float32) for value in (base, model))
    found = [measured(text, sampled(after, bases, 1 << 30)).error for bases in ({}, before)]
    assert found == pytest.approx(expected, rel=0.01)
    assert min(found) > 0.1


def test_squares_may_be_larger_than_any_float() -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    errors = [measured(f"zfp(tolerance={by / 16})", sampled({"w": by * x}, {}, 1 << 30)).error for by in (1, 2.0**530)]
    assert errors[0] == errors[1] > 0


def test_a_large_checkpoint_is_sampled() -> None:
    arrays = {f"{i}": np.full((100, 10), i, np.float32) for i in range(20)}
    arrays["large"] = np.arange(100_000, dtype=np.float32).reshape(-1, 10)
    part = sampled(arrays, arrays, 40_000)
    assert part.of == 480_000
    assert 30_000 < part.nbytes <= 40_000
    assert len(part.arrays) > 8
    for key, x in part.arrays.items():
        assert np.array_equal(x, arrays[key][: len(x)])
        assert np.array_equal(x, part.bases[key])
    assert sampled(arrays, arrays, 40_000).arrays.keys() == part.arrays.keys()
    whole, half = (measured("raw", Sample(part.arrays, {}, of)) for of in (part.nbytes, 2 * part.nbytes))
    assert half.nbytes == 2 * whole.nbytes


def test_a_sample_has_something() -> None:
    one = sampled({"w": np.ones((1, 1000)), "n": np.array(1)}, {}, 100)
    assert one.nbytes >= 8
    with pytest.raises(ConfigError, match="found none with elements"):
        sampled({"w": np.ones((0, 3))}, {}, 100)
    with pytest.raises(ConfigError, match="expected a base with arrays of the checkpoint's names"):
        sampled({"w": np.ones(3)}, {"w": np.ones(4)}, 100)


def test_recommendations() -> None:
    exact, close, tiny = (
        row("exact", 8_000_000, 0, 0.1),
        row("close", 2_000_000, 0.05, 0.4),
        row("tiny", 10_000, 0.6, 5),
    )
    chosen = recommended([exact, close, tiny], 0.1, differences=True)
    names = {link: [one.pipeline for one in by_need.values()] for link, by_need in chosen.items()}
    assert names == {
        "10 Mbit/s": ["exact", "close", "close"],  # 6.5 s, 2.0 s, 5.0 s
        "100 Mbit/s": ["exact", "close", "close"],
        "1 Gbit/s": ["exact", "exact", "exact"],
        "10 Gbit/s": ["exact", "exact", "exact"],
    }
    assert recommended([exact, tiny], 0.1, differences=True)["10 Mbit/s"]["feedback"] is tiny
    assert list(recommended([tiny], 0.1, differences=True)["10 Mbit/s"]) == ["feedback"]
    assert list(recommended([exact, tiny], 0.1, differences=False)["10 Mbit/s"]) == ["exact", "within"]


def test_of_two_that_take_as_long_the_one_that_loses_less_is_recommended() -> None:
    exact, lossy = row("exact", 1_000_000, 0, 0.102), row("lossy", 1_000_000, 0.05, 0.100)
    chosen = recommended([lossy, exact], 0.1, differences=True)
    assert {one.pipeline for by_need in chosen.values() for one in by_need.values()} == {"exact"}


def test_candidates_are_pipelines() -> None:
    for differences in (True, False):
        tried = candidates(0.05, ["zstd", "auto"], differences=differences)
        assert len(tried) == len(set(tried))
        assert any("error=0.05" in text for text in tried)
        assert any(not Policy.parse(text).lossless for text in tried)
        assert tried[-1] == "auto"
    with pytest.raises(ConfigError, match="no codec is called 'zst'"):
        candidates(0.05, ["zst"], differences=True)


def test_the_command(tmp_path: Path) -> None:
    before, after = before_and_after()
    np.savez(tmp_path / "before.npz", **before)
    np.savez(tmp_path / "after.npz", **after)
    call = ["bench", str(tmp_path / "after.npz"), "--base", str(tmp_path / "before.npz"), "--codec", "auto"]
    done = RUN.invoke(app, [*call, "--format", "json", "--plot", str(tmp_path / "plot.png")])
    found = json.loads(done.stdout)
    assert {one["pipeline"] for one in found["pipelines"]} > {"raw", "lossless", "safe", "small", "auto"}
    assert list(found["recommended"]) == list(LINKS)
    assert found["recommended"]["10 Mbit/s"]["exact"] in ("lossless", "auto")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    done = RUN.invoke(app, [*call, "--error", "0.2"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    for text in ("lossless", "10 Gbit/s", "error 0.2", "what feedback"):
        assert text in done.output


def test_weights_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", **before_and_after()[0])
    done = RUN.invoke(app, ["bench", str(tmp_path / "model.npz"), "--format", "json"])
    found = json.loads(done.stdout)
    assert found["error"] == 0.01
    assert set(found["recommended"]["1 Gbit/s"]) == {"exact", "within"}
    wrong = RUN.invoke(app, ["bench", str(tmp_path / "model.npz"), "--plot", str(tmp_path / "plot.doc")])
    assert (wrong.exit_code, "expected a picture that ends in" in wrong.output) == (2, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--plot nodir/x.png", "nodir; make it first"),
        *((f"--error {error}", f"expected a number above 0, found {error}") for error in ("0.0", "-1.0", "nan", "inf")),
        *((f"--sample {sample}", f"expected a number of MB, found {sample}") for sample in ("inf", "nan", "1e+305")),
    ],
)
def test_what_is_not_possible_is_said_before_anything_is_measured(
    options: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(measure, "measured")
    np.savez("model.npz", w=np.ones(10, np.float32))
    done = RUN.invoke(app, ["bench", "model.npz", *options.split()])
    assert (done.exit_code, said in done.output.replace("\n", " ")) == (2, True), done.output


def test_json_has_null_for_what_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measured", lambda text, part: row(text, part.of, math.nan, 0.1))
    np.savez(tmp_path / "model.npz", w=np.ones(10, np.float32))
    done = RUN.invoke(app, ["bench", str(tmp_path / "model.npz"), "--format", "json"])
    assert "NaN" not in done.stdout
    assert {one["error"] for one in json.loads(done.stdout)["pipelines"]} == {None}
