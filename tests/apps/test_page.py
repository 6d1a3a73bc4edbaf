"""The report of a run: one file, which opens without any other."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flowerpress.apps.page import FILE
from flowerpress.apps.results import Results
from flowerpress.cli import app
from tests.apps.test_compare import comparison, outcome
from tests.apps.test_results import config, exchange

NAME = "<script>alert(1)</script> = raw; * = zstd"


class Page(HTMLParser):
    """What a browser would find in it: text, cells of tables, and addresses."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.addresses, self.text = Counter[str](), list[str](), ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def page(folder: Path) -> Page:
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert FILE in done.output
    plots = CliRunner().invoke(app, ["plot", str(folder), "--format", "json"])
    assert all(Path(path).is_file() for path in json.loads(plots.output)["pictures"])
    again = CliRunner().invoke(app, ["report", str(folder), "--format", "json"])
    assert json.loads(again.output) == {"report": str(folder / FILE)}
    found = Page(folder / FILE)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    assert all(address.startswith("data:image/png;base64,") for address in found.addresses)
    return found


def test_a_run(tmp_path: Path) -> None:
    results = Results(config(tmp_path), [exchange(), exchange("no <reply> in time")], Counter())
    results.add_round(1, loss=1.5, accuracy=0.7)
    results.finish()
    found = page(tmp_path)
    assert (found.tags["img"], found.tags["table"], found.tags["li"]) == (2, 2, 1)
    for text in ("70.00%", "0.00 MB", "no <reply> in time", "1reply failed", "dirichlet-alpha", "'safe'"):
        assert text in found.text


def test_a_comparison(tmp_path: Path) -> None:
    comparison({"stock": [outcome(0.5)], NAME: [outcome(0.51, 100)]}).save(tmp_path)
    found = page(tmp_path)
    assert (found.tags["img"], found.tags["table"]) == (1, 2)
    for text in (NAME, "2 pipelines compared", "51.00", "+1.00"):
        assert text in found.text


@pytest.mark.parametrize("command", ["report", "plot"])
def test_an_empty_folder_is_none(command: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [command, str(tmp_path)])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
