"""Comparisons: paired by seed, saved and shown."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flowerpress import ConfigError, RunError
from flowerpress.apps import contrast, launch
from flowerpress.apps.compare import Comparison, codecs_of, compare, simulated
from flowerpress.apps.outcome import Outcome
from flowerpress.apps.runconfig import as_text
from flowerpress.cli import app
from flowerpress.jsons import dumps
from tests.apps.test_config import DEFAULTS

ROOT = Path(__file__).parents[2]
WINE = {"dataset": "wine", "model": "mlp", "num-server-rounds": 2, "learning-rate": 0.02, "torch-threads": 1}


def outcome(accuracy: float, sent: int = 1000, **changes: Any) -> Outcome:
    values = {"accuracy": [0.1, accuracy], "loss": [2.0, 1.0], "down": [0, sent], "up": [0, sent], "raw": [0, 10_000]}
    return Outcome(**{**values, "seconds": 2.0, "coding_seconds": 0.5, "failures": 0, **changes})


def comparison(outcomes: dict[str, list[Outcome]]) -> Comparison:
    seeds = list(range(len(next(iter(outcomes.values()), []))))
    return Comparison(list(outcomes), seeds, 10, "in one process", DEFAULTS, outcomes)


def engine(fails: str | None = None) -> Any:
    """Return what notes configurations and leaves results, better with each seed."""
    seen = []

    def run(config: dict[str, Any], folder: Path) -> None:
        seen.append((config["seed"], config["codec"], config["codec-down"]))
        if config["codec"] == fails:
            raise RunError("no usable reply")
        folder.mkdir(parents=True)
        names = ("down-bytes", "up-bytes", "down-raw-bytes", "up-raw-bytes")
        row = {"accuracy": config["seed"] / 10, "loss": 1.0, **dict.fromkeys(names, 100)}
        (folder / "metrics.jsonl").write_text((json.dumps(row) + "\n") * 2)
        summary = {"seconds": 1.5, "encode-seconds": 0.25, "decode-seconds": 0.5, "failures": 1}
        (folder / "summary.json").write_text(json.dumps(summary))

    return run, seen


def test_every_pipeline_runs_with_every_seed(tmp_path: Path) -> None:
    run, seen = engine()
    lines = list[str]()
    both = Comparison(["stock", "zstd // raw"], [4, 5], 10, "engine", DEFAULTS)
    compare(both, tmp_path / "new", run, lambda *found: lines.append(contrast.line(*found)))
    assert seen == [(4, "", ""), (4, "zstd", "raw"), (5, "", ""), (5, "zstd", "raw")]
    assert lines[3] == "seed 5, zstd // raw: accuracy 50.00%, 0.0004 MB, 1.5 s, 1 failures"
    assert both.outcomes["stock"][1] == Outcome(
        [0.5, 0.5], [1.0, 1.0], [100, 200], [100, 200], [200, 400], 1.5, 0.75, 1
    )
    assert Comparison.load(tmp_path / "new") == both


def test_what_ran_before_a_failure_is_kept(tmp_path: Path) -> None:
    run, _ = engine(fails="raw")
    with pytest.raises(RunError, match="no usable reply"):
        compare(Comparison(["zstd", "raw"], [4], 10, "engine", DEFAULTS), tmp_path, run, lambda *_: None)
    assert list(Comparison.load(tmp_path).outcomes) == ["zstd"]


@pytest.mark.parametrize(
    "pipelines", [["raw", "nothing"], ["raw", "raw"], ["// raw"], ["raw //"], ["a // b // c"], ["raw // none"], [""]]
)
def test_mistakes_are_found_before_the_first_run(pipelines: list[str], tmp_path: Path) -> None:
    run, seen = engine()
    with pytest.raises(ConfigError):
        compare(Comparison(pipelines, [4], 10, "engine", DEFAULTS), tmp_path / "new", run, lambda *_: None)
    assert not seen
    assert not (tmp_path / "new").exists()


def test_notation() -> None:
    assert codecs_of("w = raw; * = zstd") == {"codec": "w = raw; * = zstd", "codec-down": ""}
    assert codecs_of(" delta | budget(bits=0.1)//zstd ") == {"codec": "delta | budget(bits=0.1)", "codec-down": "zstd"}


def test_differences_are_paired() -> None:
    """Runs differ by 20% from seed to seed, and hardly on the same seed: the interval is narrow."""
    runs = {
        "raw": [outcome(0.5), outcome(0.7), outcome(0.9)],
        "a": [outcome(0.51, 100), outcome(0.72, 100), outcome(0.90)],
    }
    first, second = contrast.rows(comparison(runs))
    assert (first["difference"], first["low"], first["high"], first["ratio"]) == (0, 0, 0, 5)
    assert second["accuracy"] == pytest.approx(0.71)
    assert second["difference"] == pytest.approx(0.01)
    assert (second["low"], second["high"]) == pytest.approx((0.01 - 0.02484, 0.01 + 0.02484), abs=1e-5)
    assert second["ratio"] == pytest.approx(30_000 / 2400)
    assert (second["down-bytes"], second["raw-bytes"]) == (400, 10_000)


def shown(found: Comparison) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(contrast.table(found))
    return capture.get()


def test_the_table_fits_and_says_what_it_knows(tmp_path: Path) -> None:
    name = "[bold]; * = quantize(relative=1e-3) | entropy"
    text = shown(comparison({"raw": [outcome(0.5), outcome(0.75)], name: [outcome(0.5), outcome(0.7)]}))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("2 seeds, 10 clients", "62.50", "± 17.68", "-2.50", "± 31.77", "[bold];", "5x"):
        assert part in text, part
    single = shown(comparison({"raw": [outcome(0.5)], "zstd": [outcome(0.25)]}))
    assert "1 seed," in single
    assert "-25.00" in single
    assert "±" not in single


def test_the_plot_takes_any_name_and_seeds(tmp_path: Path) -> None:
    for runs in ([outcome(0.5)], [outcome(0.5), outcome(0.75)]):
        path = contrast.plot(comparison({"a$b": runs, "_c": runs}), tmp_path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_diverged(tmp_path: Path) -> None:
    bad = outcome(math.nan, loss=[2.0, math.inf])
    found = comparison({"raw": [outcome(0.5), outcome(0.5)], "zstd": [bad, bad]})
    found.save(tmp_path)
    assert json.loads((tmp_path / "compare.json").read_text(), parse_constant=pytest.fail)
    again = Comparison.load(tmp_path)
    assert math.isnan(again.outcomes["zstd"][0].accuracy[-1])
    assert "nan" in shown(again)
    assert contrast.plot(again, tmp_path).is_file()
    assert json.loads(dumps(contrast.rows(again)))[1]["low"] is None


@pytest.mark.parametrize("damage", ['{"contenders": [', "{}", '{"outcomes": {"raw": [{}]}}', '{"outcomes": []}'])
@pytest.mark.parametrize("command", ["plot", "report"])
def test_a_damaged_comparison(command: str, damage: str, tmp_path: Path) -> None:
    (tmp_path / "compare.json").write_text(damage)
    done = CliRunner().invoke(app, [command, str(tmp_path)])
    assert (done.exit_code, "compare.json" in done.output) == (3, True), done.output


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("seed=1.5", "expected seed of type int"),
        ("seed='a'", "expected seed of type int"),
        ("task='train-codec' encoder='/e' output-dir='/o'", "expected task='classify'"),
    ],
)
def test_what_cannot_be_compared(config: str, words: str, tmp_path: Path) -> None:
    options = ["--app", str(ROOT), "--runs", str(tmp_path), "--in-process"]
    done = CliRunner().invoke(app, ["compare", "raw", "zstd", *options, "-c", config])
    assert (done.exit_code, words in done.output.replace("\n", " ")) == (2, True), done.output
    assert list(tmp_path.iterdir()) == []


def test_an_app_that_is_not_ours_is_not_compared(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.flwr.app.config]\nrounds = 3\n")
    done = CliRunner().invoke(app, ["compare", "zstd", "--app", str(tmp_path)])
    assert (done.exit_code, "expected the key 'codec'" in done.output.replace("\n", " ")) == (2, True), done.output


def test_there_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a comparison in"):
        Comparison.load(tmp_path)


def test_the_command_compares_in_process_and_plots_again(tmp_path: Path) -> None:
    options = ["--app", str(ROOT), "--runs", str(tmp_path), "--in-process", "--clients", "3", "--seeds", "2"]
    done = CliRunner().invoke(
        app, ["compare", "stock", "delta | budget(bits=1.0)", *options, "-c", as_text(WINE), "--format", "json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    stock, pressed = found["pipelines"]
    assert (stock["pipeline"], stock["seeds"], stock["difference"]) == ("stock", 2, 0)
    assert 0.97 < stock["ratio"] < 1
    assert pressed["ratio"] > 2 * stock["ratio"]
    assert stock["raw-bytes"] == pressed["raw-bytes"] == 2 * 2 * 3 * 4 * 1_229_803
    folder = Path(found["folder"])
    assert Comparison.load(folder).seeds == [2026, 2027]
    (folder / "plot.png").unlink()
    again = CliRunner().invoke(app, ["plot", str(folder)], env={"COLUMNS": "120"})
    assert again.exit_code == 0
    assert "2 seeds, 3 clients, in one process" in again.output
    assert (folder / "plot.png").is_file()
    wrong = CliRunner().invoke(app, ["compare", "raw", "zstd", *options, "-c", "sed=1"])
    assert wrong.exit_code == 2
    assert "expected a key among" in wrong.output


def test_an_engine_gets_what_differs_from_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        launch, "simulate", lambda *where, clients, run_config, on_round: seen.append((*where, run_config))
    )
    run = simulated(ROOT, DEFAULTS, 3)
    run({**DEFAULTS, "codec": "w = raw; * = zstd", "seed": 2027, "output-dir": "elsewhere"}, tmp_path)
    run({**DEFAULTS}, tmp_path)
    assert seen == [(ROOT, tmp_path, "codec='w = raw; * = zstd' seed=2027"), (ROOT, tmp_path, "")]
