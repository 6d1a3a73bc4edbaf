"""``flowerpress run``, ``resume``, ``compare`` and ``plot``: runs of the app, and what came of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowerpress.cli.shared import AsFormat, Format, RunConfig, console, explain, say
from flowerpress.deployment.connection import Connection
from flowerpress.errors import ConfigError
from flowerpress.jsons import dumps

if TYPE_CHECKING:
    from flowerpress.apps.launch import Asked

_CLIENTS = 10
App = Annotated[Path, typer.Argument(help="Folder of the Flower app.")]
OnSuperLink = Annotated[
    str, typer.Option("--connection", help="A SuperLink in $FLWR_HOME/config.toml: run there, not in the simulation.")
]
Checkpoints = Annotated[
    str, typer.Option(help="Folder or URL where the last rounds are kept, in a place per run; else in the run's.")
]
Results = Annotated[Path, typer.Argument(help="Folder of a finished run, or comparison.")]
commands = typer.Typer()


@commands.command()
@explain
def run(
    app_folder: App = Path(),
    clients: Annotated[int | None, typer.Option(min=2, help="Simulated clients; 10 if nothing is said.")] = None,
    run_config: RunConfig = None,
    runs: Annotated[Path, typer.Option(help="Where the results go, in a folder per run.")] = Path("runs"),
    connection: OnSuperLink = "",
    checkpoints: Checkpoints = "",
    output: AsFormat = Format.TABLE,
) -> None:
    """Train in Flower's simulation engine, show each round, and save metrics, plot and model.

    flowerpress run . --clients 20 -c "num-server-rounds=5 codec='small'"

    Starts a SuperLink of its own on a free port and stops it at the end. Exits with 1 if the run failed.
    What was stopped, by whatever, goes on with "flowerpress resume runs/<id>".

    With --connection the SuperNodes of a SuperLink train; its server app has to
    see the folder of the results under the same path.
    """
    from flowerpress.apps import launch

    if connection and clients:
        raise ConfigError("expected no --clients beside --connection: the SuperNodes there are the clients")
    folder = launch.new_folder(runs)
    simulated = None if connection else clients or _CLIENTS
    asked = launch.prepared(app_folder, folder, simulated, run_config or [], checkpoints=checkpoints)
    _train(app_folder, folder, asked, connection, output)


@commands.command()
@explain
def resume(
    folder: Annotated[Path, typer.Argument(help="A run that was stopped, or is to have more rounds: runs/<id>.")],
    app_folder: Annotated[Path, typer.Option("--app", help="Folder of the Flower app.")] = Path(),
    run_config: RunConfig = None,
    connection: OnSuperLink = "",
    checkpoints: Checkpoints = "",
    output: AsFormat = Format.TABLE,
) -> None:
    """Go on with a run behind its last round, here or on another SuperLink, as it was asked for then.

    flowerpress resume runs/<id> -c num-server-rounds=20

    Results are added to those in its folder. If nothing can be gone on with,
    what is there stays, and what was asked for now is forgotten.
    """
    from flowerpress.apps import launch

    asked = launch.prepared(app_folder, folder, None, run_config or [], resume=True, checkpoints=checkpoints)
    _train(app_folder, folder.resolve(), asked, connection, output)


def _train(app: Path, folder: Path, asked: "Asked", connection: str, output: Format) -> None:
    """Run the app, on a SuperLink or in the simulation engine, and show what comes of it."""
    from flowerpress.apps import launch, report

    quiet, app = output is Format.JSON, app.resolve()

    def on_round(row: dict[str, Any]) -> None:
        if not quiet:
            console.print(report.line(row), markup=False)

    if connection:
        launch.submit(
            Connection.of_user(connection), app, folder, run_config=asked.run_config, on_round=on_round, note=asked.note
        )
    else:
        clients = asked.clients or _CLIENTS  # a run that began on SuperNodes has none
        if not quiet:
            console.print(f"{clients} clients in Flower's simulation engine; the engine takes half a minute to start")
        launch.simulate(app, folder, clients=clients, run_config=asked.run_config, on_round=on_round, note=asked.note)
    report.pictures(folder)
    if quiet:
        print(dumps({"folder": str(folder), **report.summary_of(folder)}))
    else:
        console.print(report.table(folder))
        console.print(f"metrics, model and plots are in {folder}")


@commands.command()
@explain
def compare(
    pipelines: Annotated[list[str], typer.Argument(help="What to compare.")],
    app_folder: Annotated[Path, typer.Option("--app", help="Folder of the Flower app.")] = Path(),
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each: seed, seed + 1, and so on.")] = 1,
    clients: Annotated[int, typer.Option(min=2, help="Clients of each run.")] = 10,
    run_config: RunConfig = None,
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
    all that Flower sends. "flowerpress plot FOLDER" draws the plot again. A
    figure that is not finite is null in JSON.
    """
    from flowerpress.apps import compare as comparing
    from flowerpress.apps import contrast, launch, runconfig

    quiet, folder = output is Format.JSON, launch.new_folder(runs)
    known = runconfig.defaults(app_folder)
    config = {**known, **runconfig.changes(run_config or [], known)}
    comparing.check(config)
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
        print(dumps({"folder": str(folder), "pipelines": contrast.rows(comparison)}))
    else:
        console.print(contrast.table(comparison))
        console.print(f"results and plot are in {folder}")


@commands.command()
@explain
def plot(folder: Results, output: AsFormat = Format.TABLE) -> None:
    """Draw the plot of a run or a comparison again, and print its table."""
    from flowerpress.apps import compare as comparing
    from flowerpress.apps import contrast, report

    if (folder / comparing.FILE).is_file():
        comparison = comparing.Comparison.load(folder)
        table, drawn = contrast.table(comparison), [contrast.plot(comparison, folder)]
    else:
        table, drawn = report.table(folder.resolve()), report.pictures(folder)
    if output is Format.TABLE:
        console.print(table)
    say(output, "\n".join(map(str, drawn)), pictures=drawn)


@commands.command()
@explain
def report(folder: Results, output: AsFormat = Format.TABLE) -> None:
    """Write one HTML file with figures, tables and pictures, which needs nothing else to be opened."""
    from flowerpress.apps import page

    path = page.write(folder)
    say(output, str(path), report=path)
