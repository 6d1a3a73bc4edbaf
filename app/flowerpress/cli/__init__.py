"""The command line: a file for each group of commands; wiring only."""

import typer

from flowerpress.cli import bench, cache, codecs, deploy, extract, files, runs

app = typer.Typer(
    help="Federated learning on Flower in a fraction of the bytes.",
    epilog="Exits with 1 if a run failed, 2 if what was asked is not possible, 3 if bytes are damaged.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for group in (runs, bench, files, extract, codecs):
    app.add_typer(group.commands)
app.add_typer(deploy.commands, name="deploy")
app.add_typer(cache.commands, name="cache")


def main() -> None:
    """Run the command line."""
    app()
