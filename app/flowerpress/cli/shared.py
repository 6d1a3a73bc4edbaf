"""What all commands have in common: where they print, in which format, and how they fail."""

import json
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import wraps
from typing import Annotated, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import track

from flowerpress.errors import ChunkError, ConfigError, RunError

P = ParamSpec("P")
T = TypeVar("T")
console = Console(soft_wrap=True)
MODEL = "A model: .fpb, .safetensors, .npz, .pt, or a folder of checkpoints."
EXITS = {RunError: 1, ConfigError: 2, OSError: 2, ChunkError: 3}


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


AsFormat = Annotated[Format, typer.Option("--format", help="A table for people, or JSON for programs.")]
RunConfig = Annotated[list[str] | None, typer.Option("--run-config", "-c", help="key=value pairs, as for flwr run.")]


def explain(command: Callable[P, None]) -> Callable[P, None]:
    """Print errors of ours, and of files, as one message, and exit with the status of their kind."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except tuple(EXITS) as error:
            Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
            raise typer.Exit(next(code for kind, code in EXITS.items() if isinstance(error, kind))) from error

    return run


def say(output: Format, words: str, **found: object) -> None:
    """Print what was done: in words for people, what was found for programs."""
    if output is Format.JSON:
        print(json.dumps(found, default=str), flush=True)
    else:
        console.print(words, markup=False)


def progress(items: Sequence[T], what: str) -> Iterable[T]:
    """Yield items one by one, with a bar where a person is watching."""
    watching = Console(stderr=True)
    return track(items, what, console=watching, transient=True, disable=not watching.is_terminal)
