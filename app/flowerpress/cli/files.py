"""``flowerpress inspect`` and ``convert``: files of models."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowerpress.cli.shared import AsFormat, Format, console, explain

commands = typer.Typer()


@commands.command()
@explain
def inspect(
    file: Annotated[Path, typer.Argument(help="A bundle, such as model.fpb.")],
    base: Annotated[
        Path | None, typer.Option(help="A bundle of the references, for one that names its arrays by theirs.")
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Print what a bundle holds: its arrays, how each was coded, and what it takes; checks every chunk."""
    from flowerpress.chunks.bundle import Bundle

    bundle = Bundle.open(file, bases=Bundle.open(base) if base else None)
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


@commands.command()
@explain
def convert(
    source: Annotated[Path, typer.Argument(help="A model: .fpb, .safetensors, .npz, .pt, or a folder of checkpoints.")],
    target: Annotated[Path, typer.Argument(help="What to write: a file with one of these suffixes.")],
) -> None:
    """Write the model in a file, or the last one in a folder of checkpoints, in another format."""
    from flowerpress.arrays.files import arrays_of_file, arrays_to_file

    arrays = arrays_of_file(source)
    arrays_to_file(arrays, target)
    console.print(f"{target}: {len(arrays)} arrays, {target.stat().st_size:,} bytes")
