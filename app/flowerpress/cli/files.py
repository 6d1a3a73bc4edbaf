"""``flowerpress inspect``, ``press`` and ``unpress``: files of models."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flowerpress.cli.shared import MODEL, AsFormat, Format, console, explain, say
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    from flowerpress.arrays.files import Arrays
    from flowerpress.chunks.bundle import Bundle

commands = typer.Typer()


@commands.command()
@explain
def inspect(
    file: Annotated[Path, typer.Argument(exists=True, help="A bundle, such as model.fpb.")],
    base: Annotated[
        Path | None, typer.Option(help="A bundle of the references, for one that names its arrays by theirs.")
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Print what a bundle holds: its arrays, how each was coded, and what it takes; checks every chunk."""
    from flowerpress.chunks.bundle import Bundle

    for path in (file, base) if base else (file,):
        _check_bundle(path)
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
def press(
    source: Annotated[Path, typer.Argument(help=MODEL)],
    target: Annotated[Path, typer.Argument(help="The bundle to write, such as model.fpb.")],
    codec: Annotated[str, typer.Option(help="A pipeline, a policy or a name; zstd keeps every bit.")] = "zstd",
    base: Annotated[
        Path | None,
        typer.Option(help="A model that the reader has, for codecs of differences; keep it: no other will do."),
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Compress a model into a bundle.

    flowerpress press model.safetensors model.fpb

    flowerpress press after.pt update.fpb --base before.pt --codec small

    What was pressed against a base is unpressed with it: the bundle does not say
    which one that was. "flowerpress bench" says which codec to take, and
    "flowerpress inspect" what came of each array.
    """
    from flowerpress.arrays.files import arrays_of_file, check_folder
    from flowerpress.chunks.pack import pack, save

    if target.suffix != ".fpb":
        raise ConfigError(f"{target}: expected a bundle to write, a file that ends in .fpb; unpress writes others")
    check_folder(target)
    arrays = dict(arrays_of_file(source))
    save(target, pack(arrays, codec, bases=arrays_of_file(base) if base else None))
    _written(target, arrays, output)


@commands.command()
@explain
def unpress(
    source: Annotated[Path, typer.Argument(help=MODEL)],
    target: Annotated[Path, typer.Argument(help="What to write: .safetensors, .npz, .pt, or .fpb.")],
    base: Annotated[
        Path | None,
        typer.Option(
            help="The model that a bundle was pressed against. Give that very one: from another of the same names, "
            "dtypes and shapes comes a wrong model, and no error, as bundles do not say what their base was."
        ),
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Write a bundle, or the last model in a folder of checkpoints, as an ordinary model file.

    flowerpress unpress runs/<id>/model.fpb model.safetensors

    flowerpress unpress runs/<id>/checkpoints model.pt
    """
    from flowerpress.arrays.files import arrays_of_file, arrays_to_file, check_target
    from flowerpress.chunks.bundle import Bundle

    check_target(target)  # now, and not when all is decoded
    if base:
        _check_bundle(source)
    bases = arrays_of_file(base) if base else {}
    arrays = Bundle.open(source, bases=bases) if base else arrays_of_file(source)
    if isinstance(arrays, Bundle) and (key := _without_base(arrays, bases)) is not None:
        none = f"none like it in {base}" if base else "none"
        raise ConfigError(
            f"{source}: expected a reference for array {key!r}, found {none}; give the model that it was pressed "
            f"against with --base"
        )
    found = {key: arrays[key] for key in arrays}
    arrays_to_file(found, target)
    _written(target, found, output)


def _check_bundle(path: Path) -> None:
    """Raise ConfigError for what is not there, or a model file of another kind, lest it be called a damaged bundle."""
    from flowerpress.arrays.files import SUFFIXES

    if not path.is_file() or path.suffix in SUFFIXES[1:]:
        found = f"a {path.suffix} file" if path.is_file() else "none there"
        raise ConfigError(f"{path}: expected a bundle, as flowerpress press makes of model files, found {found}")


def _without_base(bundle: "Bundle", bases: "Arrays") -> str | None:
    """Return the name of an array whose reference, which it cannot be decoded without, is not there; or None."""
    from flowerpress.chunks.bundle import Bundle
    from flowerpress.codecs.base import Spec

    for spec in bundle.layout.differences():
        key = spec.key
        if key not in bases or spec != (bases.spec(key) if isinstance(bases, Bundle) else Spec.of(bases[key], key)):
            return key
    return None


def _written(target: Path, arrays: "Arrays", output: Format) -> None:
    """Say what was written, and what became of the bytes of the arrays."""
    from flowerpress.codecs.base import Spec

    raw, nbytes = sum(Spec.of(x, key).nbytes for key, x in arrays.items()), target.stat().st_size
    ratio = f", {raw / nbytes:.2f}x smaller than its arrays" if raw > nbytes else ""
    words = f"{target}: {len(arrays)} arrays, {nbytes:,} bytes{ratio}"
    say(output, words, **{"file": target, "arrays": len(arrays), "raw-bytes": raw, "bytes": nbytes})
