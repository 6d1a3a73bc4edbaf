"""A run, or a comparison, as one HTML file that needs nothing else: no other file, no network, no script."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from flowerpress.apps import compare, contrast, report
from flowerpress.apps.results import read_rounds

FILE = "report.html"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.2rem 0; }
.figures b { display: block; font-size: 1.7rem; line-height: 1.2; } .figures span { color: #555; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: pre-line; }
th:first-child, td:first-child { text-align: left; } tr.sum td { font-weight: 600; }
img { max-width: 100%; } code { font-size: .9em; overflow-wrap: anywhere; }
"""


def write(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run, or of a comparison, and return its path.

    Raises ConfigError if the folder has neither.
    """
    title, parts = _of_comparison(folder) if (folder / compare.FILE).is_file() else _of_run(folder)
    path = folder / FILE
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(parts)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    return path


def _of_run(folder: Path) -> tuple[str, list[str]]:
    summary, rounds = report.summary_of(folder), read_rounds(folder)
    failures = [f"round {row['round']}: {said}" for row in rounds if (said := report.reasons(row))]
    return f"{summary['task']} with {summary['strategy']}: {folder.resolve().name}", [
        f"<p>Coded with <code>{escape(summary['codec'])}</code>.</p>",
        _figures(_headline(summary)),
        *map(_picture, report.pictures(folder)),
        _section("Rounds", _table(report.table(folder))),
        _section("What failed", _listed(failures) if failures else "<p>Nothing.</p>"),
        _configuration(summary["config"]),
    ]


def _of_comparison(folder: Path) -> tuple[str, list[str]]:
    comparison = compare.Comparison.load(folder)
    table = contrast.table(comparison)
    return f"{len(comparison.contenders)} pipelines compared: {folder.resolve().name}", [
        f"<p>{escape(str(table.title))}. Differences are to the first, on equal seeds.</p>",
        _picture(contrast.plot(comparison, folder)),
        _section("Pipelines", _table(table)),
        _configuration(comparison.config),
    ]


def _headline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a run came to, as figures and what they are."""
    name, outcome = report.outcome(summary)
    sent = summary["down-bytes"] + summary["up-bytes"]
    raw = summary["down-raw-bytes"] + summary["up-raw-bytes"]
    traffic = [
        (f"{sent / 1e6:,.2f} MB", f"sent, for {raw / 1e6:,.2f} MB of arrays"),
        (f"{raw / sent:,.1f}x", "fewer bytes"),
    ]
    failed = summary["failures"]
    return [
        (outcome, name),
        *(traffic if sent else []),
        (f"{summary['seconds']:,.0f} s", "in all"),
        (str(failed), "reply failed" if failed == 1 else "replies failed"),
    ]


def _figures(figures: Iterable[tuple[str, str]]) -> str:
    cells = (f"<div><b>{escape(figure)}</b><span>{escape(what)}</span></div>" for figure, what in figures)
    return f'<div class="figures">{"".join(cells)}</div>'


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{escape(path.stem)}" src="data:image/png;base64,{data}"></p>'


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _configuration(config: dict[str, Any]) -> str:
    rows = [[key.replace("_", "-"), repr(value)] for key, value in config.items()]
    return _section("Run configuration", _rows(["key", "value"], rows))


def _listed(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _table(table: Table) -> str:
    """Return a table of the terminal as one of HTML; a row in bold is a sum."""
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    bold = [row.style == "bold" for row in table.rows]
    return _rows([_plain(column.header) for column in table.columns], list(zip(*columns, strict=True)), bold)


def _rows(header: list[str], rows: Iterable[Iterable[str]], bold: Iterable[bool] = ()) -> str:
    sums = dict(enumerate(bold))
    lines = [
        f"<tr{' class=sum' * sums.get(i, False)}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for i, row in enumerate(rows)
    ]
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
