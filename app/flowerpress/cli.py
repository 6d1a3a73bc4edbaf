"""The command line: wiring only."""

import json
from collections.abc import Callable
from datetime import datetime
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
cache = typer.Typer(help="Models that this machine holds, so that they need not be sent to it.", no_args_is_help=True)
app.add_typer(cache, name="cache")
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
    resume: Annotated[
        Path | None, typer.Option(help="Folder of a run that was stopped, or is to have more rounds: it goes on.")
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Train in Flower's simulation engine, show each round, and save metrics, plot and model.

    Starts a SuperLink of its own on a free port and stops it at the end. Exits with 1 if the run failed.
    What was stopped, by whatever, goes on behind its last round with --resume runs/<id>.
    """
    from flowerpress.apps import launch, report

    folder = resume.resolve() if resume else launch.new_folder(runs)
    clients, run_config = launch.prepared(app_folder, folder, clients, run_config or [], resume=resume is not None)
    quiet = output is Format.JSON
    if not quiet:
        console.print(f"{clients} clients in Flower's simulation engine; the engine takes half a minute to start")
    launch.simulate(
        app_folder.resolve(),
        folder,
        clients=clients,
        run_config=" ".join(run_config),
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
def compare(
    pipelines: Annotated[list[str], typer.Argument(help="What to compare.")],
    app_folder: Annotated[Path, typer.Option("--app", help="Folder of the Flower app.")] = Path(),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each: seed, seed + 1, and so on.")] = 1,
    clients: Annotated[int, typer.Option(min=2, help="Clients of each run.")] = 10,
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help="key=value pairs, as for flwr run.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run our app without the simulation engine: faster, for many seeds.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Where the results go, in a folder per comparison.")] = Path("runs"),
    output: AsFormat = Format.TABLE,
) -> None:
    """Train under several pipelines, with equal seeds, model, data and clients.

    A pipeline is the text of one, or of a policy, for both directions;
    "UP // DOWN" for one in replies and another in what the server sends;
    or "stock", which is Flower without compression:

    flowerpress compare stock zstd "delta | budget(bits=0.1) // intdelta | zstd"

    The first one is what the others are compared with. The table has the mean
    difference in accuracy with its 95% interval over seeds, and the bytes of
    all that Flower sends. "flowerpress plot FOLDER" draws the plot again.
    """
    from flowerpress.apps import compare as comparing
    from flowerpress.apps import contrast, launch, runconfig

    quiet, folder = output is Format.JSON, launch.new_folder(runs)
    known = runconfig.defaults(app_folder)
    config = {**known, **runconfig.changes(run_config or [], known)}
    comparison = comparing.Comparison(
        contenders=pipelines,
        seeds=list(comparing.seeds_from(config["seed"], seeds)),
        clients=clients,
        engine="in one process" if in_process else "simulation engine",
        config=config,
    )
    comparing.compare(
        comparison,
        folder,
        comparing.in_process(clients) if in_process else comparing.simulated(app_folder.resolve(), known, clients),
        lambda *run: None if quiet else console.print(contrast.line(*run), markup=False),
    )
    contrast.plot(comparison, folder)
    if quiet:
        print(json.dumps({"folder": str(folder), "pipelines": contrast.rows(comparison)}))
    else:
        console.print(contrast.table(comparison))
        console.print(f"results and plot are in {folder}")


@app.command()
@_explain
def plot(folder: Annotated[Path, typer.Argument(help="Folder of a finished run, or comparison.")]) -> None:
    """Draw the plot of a run or a comparison again, and print its table."""
    from flowerpress.apps import compare as comparing
    from flowerpress.apps import contrast, report

    if (folder / comparing.FILE).is_file():
        comparison = comparing.Comparison.load(folder)
        console.print(contrast.table(comparison))
        console.print(f"{contrast.plot(comparison, folder)}")
        return
    console.print(report.table(folder.resolve()))
    console.print(f"{report.plot(folder)}")


@app.command()
@_explain
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


@app.command()
@_explain
def convert(
    source: Annotated[Path, typer.Argument(help="A model: .fpb, .safetensors, .npz, .pt, or a folder of checkpoints.")],
    target: Annotated[Path, typer.Argument(help="What to write: a file with one of these suffixes.")],
) -> None:
    """Write the model in a file, or the last one in a folder of checkpoints, in another format."""
    from flowerpress.arrays.files import arrays_of_file, arrays_to_file

    arrays = arrays_of_file(source)
    arrays_to_file(arrays, target)
    console.print(f"{target}: {len(arrays)} arrays, {target.stat().st_size:,} bytes")


@app.command("train-codec")
@_explain
def train_codec(
    features: Annotated[Path, typer.Argument(help="An .npy file, a Zarr array, or a run that gathered latents.")],
    target: Annotated[Path, typer.Argument(help="Where the weights go: .fpb, .safetensors, .npz or .pt.")],
    weight: Annotated[float, typer.Option(min=0, help="Of the mean squared error beside bits per value.")] = 1.0,
    model: Annotated[str, typer.Option(help="vit-union, for tokens, or scale-hyperprior, for planes.")] = "vit-union",
    epochs: Annotated[int, typer.Option(min=1, help="Times that all features are seen.")] = 50,
    batch_size: Annotated[int, typer.Option(min=1, help="Features in a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam; falls to 0.")] = 0.002,
    channels: Annotated[int, typer.Option(min=1, help="Of the latents y.")] = 24,
    hyper_channels: Annotated[int, typer.Option(min=1, help="Of the hyper latents z.")] = 16,
    groups: Annotated[int, typer.Option(min=1, help="Channels of y that are coded at a time.")] = 12,
    prefix: Annotated[int, typer.Option(min=0, help="Tokens before the patches; they are not sent.")] = 1,
    grid: Annotated[tuple[int, int] | None, typer.Option(help="Rows and columns of the patches, if no square.")] = None,
    held_out: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the features to test with.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of weights, noise and batches.")] = 0,
    output: AsFormat = Format.TABLE,
) -> None:
    """Train a learned codec on features of this machine, and keep its weights.

    Features are tokens (n, L, C), or planes (n, h, w) of values from 0 to 1, of
    sides that 64 divides. To train across clients, run the app with
    -c "task='train-codec' encoder='…'".
    """
    from flowerpress.apps import central

    training = central.Training(
        model=model,
        weight=weight,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        channels=channels,
        hyper_channels=hyper_channels,
        groups=groups,
        prefix=prefix,
        grid=grid,
        seed=seed,
        held_out=held_out,
    )
    quiet = output is Format.JSON
    done = central.train_codec(
        features,
        target,
        training,
        lambda epoch, loss: None if quiet else console.print(f"epoch {epoch + 1}: loss {loss:.4f}", markup=False),
    )
    if quiet:
        print(json.dumps({"file": str(target), **vars(done)}))
        return
    console.print(
        f"{done.parameters:,} parameters; held-out features: {done.rate:.4f} bits per value, "
        f"mean squared error {done.distortion:.4g}",
        markup=False,
    )
    console.print(f"learned(model='{model}', weights='{done.digest}')", markup=False)


@cache.command()
@_explain
def add(
    file: Annotated[Path, typer.Argument(help="A model: .fpb, .safetensors, .npz, .pt, or a folder of checkpoints.")],
) -> None:
    """Add the model in a file; once the server and the clients hold it, sending it is free.

    Add the same file where the server app runs and on each client's machine; a client without it is sent the model
    whole. The arrays need the names, dtypes and shapes of the model's. If they are in another order, sending that costs
    a little; what is trained from them costs the difference, with a codec such as "intdelta | zstd".
    """
    from flowerpress.arrays.files import arrays_of_file
    from flowerpress.federation.store import Store

    store, arrays = Store(), arrays_of_file(file)
    digest = store.seed(arrays)
    console.print(f"{digest} {len(arrays)} arrays, {store.nbytes(digest):,} bytes")


@cache.command()
@_explain
def weights(
    file: Annotated[Path, typer.Argument(help="Weights of a learned codec: .fpb, .safetensors, .npz, .pt.")],
) -> None:
    """Add the weights of a learned codec, and print their digest, which pipelines name them by.

    Both ends need them: learned(weights='DIGEST').
    """
    from flowerpress.arrays.files import arrays_of_file
    from flowerpress.latent_codecs.weights import install

    console.print(install(arrays_of_file(file)))


@cache.command()
@_explain
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


@cache.command()
@_explain
def clear(
    keep_seeds: Annotated[bool, typer.Option(help="Leave the models that were added by hand.")] = False,
) -> None:
    """Remove all models and residuals, without asking; a run that is on sends the models again."""
    from flowerpress.federation.residuals import Residuals
    from flowerpress.federation.store import Store

    store = Store()
    freed = store.clear(keep_seeds=keep_seeds) + Residuals(store).clear()
    console.print(f"{freed:,} bytes freed in {store.folder}")
