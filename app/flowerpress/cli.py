"""The command line: wiring only."""

import json
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, ParamSpec

import typer
from rich.console import Console
from rich.table import Table

from flowerpress.errors import FlowerpressError

P = ParamSpec("P")
app = typer.Typer(help=__doc__ and "Federated learning on Flower in a fraction of the bytes.", no_args_is_help=True)
console = Console(soft_wrap=True)


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


AsFormat = Annotated[Format, typer.Option("--format", help="A table for people, or JSON for programs.")]


def main() -> None:
    """Run the command line."""
    app()


def _explain(command: Callable[P, None]) -> Callable[P, None]:
    """Print our own errors as one message, and exit with status 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except FlowerpressError as error:
            Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
            raise typer.Exit(1) from error

    return run


@app.command()
@_explain
def run(
    app_folder: Annotated[Path, typer.Argument(help="Folder of the Flower app.")] = Path(),
    clients: Annotated[int, typer.Option(min=2, help="Simulated clients.")] = 10,
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help="key=value pairs, as for flwr run.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where the results go, in a folder per run.")] = Path("runs"),
    output: AsFormat = Format.TABLE,
) -> None:
    """Train in Flower's simulation engine, show each round, and save metrics, plot and model.

    Starts a SuperLink of its own on a free port and stops it at the end. Exits with 1 if the run failed.
    """
    from flowerpress.apps import launch, report

    folder = launch.new_folder(runs)
    quiet = output is Format.JSON
    if not quiet:
        console.print(f"{clients} clients in Flower's simulation engine; the engine takes half a minute to start")
    launch.simulate(
        app_folder.resolve(),
        folder,
        clients=clients,
        run_config=" ".join(run_config or []),
        on_round=lambda row: None if quiet else console.print(report.line(row), markup=False),
    )
    report.plot(folder)
    if quiet:
        print(json.dumps({"folder": str(folder), **report.summary_of(folder)}))
    else:
        console.print(report.table(folder))
        console.print(f"metrics, model and plot are in {folder}")


@app.command()
@_explain
def plot(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Draw the plot of a run again, and print its table."""
    from flowerpress.apps import report

    console.print(report.table(folder.resolve()))
    console.print(f"{report.plot(folder)}")


@app.command()
@_explain
def inspect(
    file: Annotated[Path, typer.Argument(help="A bundle, such as model.fpb.")],
    output: AsFormat = Format.TABLE,
) -> None:
    """Print what a bundle holds: its arrays, how each was coded, and what it takes; checks every chunk."""
    from flowerpress.chunks.bundle import Bundle

    bundle = Bundle.open(file)
    bundle.verify()
    rows = bundle.rows()
    if output is Format.JSON:
        print(json.dumps({"file": str(file), "bytes": bundle.nbytes, "arrays": rows}))
        return
    table = Table(title=f"{file}: {bundle.nbytes:,} bytes")
    for name, justify in (("array", "left"), ("dtype", "left"), ("shape", "left"), ("pipeline", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("raw bytes", "bytes", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        ratio = f"{row['raw-bytes'] / row['bytes']:.2f}x" if row["bytes"] else "-"
        shape = "x".join(map(str, row["shape"])) or "scalar"
        table.add_row(
            row["key"], row["dtype"], shape, row["pipeline"], f"{row['raw-bytes']:,}", f"{row['bytes']:,}", ratio
        )
    console.print(table)
