"""``flowerpress cache``: models that this machine holds, so that they need not be sent to it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flowerpress.cli.shared import MODEL, AsFormat, Format, console, explain, say

commands = typer.Typer(
    help="Models that this machine holds, so that they need not be sent to it.", no_args_is_help=True
)


@commands.command()
@explain
def add(file: Annotated[Path, typer.Argument(help=MODEL)], output: AsFormat = Format.TABLE) -> None:
    """Add the model in a file; once the server and the clients hold it, sending it is free.

    Add the same file where the server app runs and on each client's machine; a client without it is sent the model
    whole. The arrays need the names, dtypes and shapes of the model's. If they are in another order, sending that costs
    a little; what is trained from them costs the difference, with a codec such as "intdelta | zstd".
    """
    from flowerpress.arrays.files import arrays_of_file
    from flowerpress.federation.store import Store

    store, arrays = Store(), arrays_of_file(file)
    digest = store.seed(arrays)
    nbytes = store.nbytes(digest)
    say(output, f"{digest} {len(arrays)} arrays, {nbytes:,} bytes", digest=digest, arrays=len(arrays), bytes=nbytes)


@commands.command()
@explain
def weights(
    file: Annotated[Path, typer.Argument(help="Weights of a learned codec: .fpb, .safetensors, .npz, .pt.")],
    output: AsFormat = Format.TABLE,
) -> None:
    """Add the weights of a learned codec, and print their digest, which pipelines name them by.

    Both ends need them: learned(weights='DIGEST').
    """
    from flowerpress.arrays.files import arrays_of_file
    from flowerpress.latent_codecs.weights import install

    digest = install(arrays_of_file(file))
    say(output, digest, digest=digest)


@commands.command()
@explain
def ls(output: AsFormat = Format.TABLE) -> None:
    """Print which models this machine holds, the one used last first."""
    from flowerpress.federation.store import Store

    store = Store()
    rows = store.rows()
    if output is Format.JSON:
        print(json.dumps({"folder": str(store.folder), "records": rows}))
        return
    table = Table(title=f"{store.folder}: {sum(row['bytes'] for row in rows):,} bytes")
    table.add_column("digest", min_width=32)
    for name in ("arrays", "MB", "holders", "seed", "last used"):
        table.add_column(name, justify="right")
    for row in rows:
        used = datetime.fromtimestamp(row["used"]).strftime("%Y-%m-%d %H:%M")
        table.add_row(
            row["digest"],
            str(row["arrays"]),
            f"{row['bytes'] / 1e6:,.2f}",
            str(row["holders"]),
            "yes" if row["seed"] else "no",
            used,
        )
    console.print(table)


@commands.command()
@explain
def clear(
    keep_seeds: Annotated[bool, typer.Option(help="Leave the models that were added by hand.")] = False,
    output: AsFormat = Format.TABLE,
) -> None:
    """Remove all models and residuals, without asking; a run that is on sends the models again."""
    from flowerpress.federation.residuals import Residuals
    from flowerpress.federation.store import Store

    store = Store()
    freed = store.clear(keep_seeds=keep_seeds) + Residuals(store).clear()
    say(output, f"{freed:,} bytes freed in {store.folder}", bytes=freed, folder=store.folder)
