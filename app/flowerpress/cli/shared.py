"""What all commands have in common: where they print, in which format, and how they fail."""

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Annotated, ParamSpec

import typer
from rich.console import Console

from flowerpress.errors import FlowerpressError

P = ParamSpec("P")
console = Console(soft_wrap=True)


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


AsFormat = Annotated[Format, typer.Option("--format", help="A table for people, or JSON for programs.")]
RunConfig = Annotated[list[str] | None, typer.Option("--run-config", "-c", help="key=value pairs, as for flwr run.")]


def explain(command: Callable[P, None]) -> Callable[P, None]:
    """Print our own errors as one message, and exit with status 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except FlowerpressError as error:
            Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
            raise typer.Exit(1) from error

    return run
