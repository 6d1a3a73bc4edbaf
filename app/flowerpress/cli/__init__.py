"""The command line: a file for each group of commands; wiring only."""

import typer

from flowerpress.cli import cache, codecs, deploy, files, runs

app = typer.Typer(help="Federated learning on Flower in a fraction of the bytes.", no_args_is_help=True)
for group in (runs, files, codecs):
    app.add_typer(group.commands)
app.add_typer(deploy.commands, name="deploy")
app.add_typer(cache.commands, name="cache")


def main() -> None:
    """Run the command line."""
    app()
