"""``flowerpress bench``: codecs on a checkpoint of one's own."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flowerpress.cli.shared import MODEL, AsFormat, Format, console, explain, progress
from flowerpress.errors import ConfigError
from flowerpress.jsons import dumps

commands = typer.Typer()
_OF_DIFFERENCES, _OF_WEIGHTS = 0.1, 0.01  # relative L2 errors


@commands.command()
@explain
def bench(
    file: Annotated[Path, typer.Argument(help=MODEL)],
    base: Annotated[
        Path | None, typer.Option(help="The model before: then differences to it are measured, as between rounds.")
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="A pipeline, policy or name beside those that are tried anyway.")
    ] = None,
    error: Annotated[
        float | None, typer.Option(help="Relative L2 error that may be, above 0; 0.1 of differences, 0.01 of weights.")
    ] = None,
    sample: Annotated[float, typer.Option(min=1, help="MB of a larger checkpoint to measure with.")] = 256,
    plot: Annotated[Path | None, typer.Option(help="Where to draw size, error and seconds: .png, .svg, .pdf.")] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Measure codecs on your own checkpoint, and say which to send over which link.

    flowerpress bench model.safetensors

    flowerpress bench after.safetensors --base before.safetensors

    The second is what a round of training sends: give it a model before and
    after local training. Each pipeline encodes and decodes on this machine, with
    all cores; the time on a link is its bytes over the link's speed. What is
    recommended stands wherever a pipeline does, such as PressGrid(grid, "small").

    "error" is the L2 norm of what is lost over that of what is sent. In training
    with error feedback, which is PressGrid's default, what one message drops is in
    the next: far larger errors than 0.1 then cost no accuracy, see "compare".
    """
    from flowerpress.arrays.files import arrays_of_file
    from flowerpress.bench import advice, measure
    from flowerpress.bench.sample import sampled

    if plot:
        advice.check_picture(plot)
    differences = base is not None
    error = (_OF_DIFFERENCES if differences else _OF_WEIGHTS) if error is None else error
    if not 0 < error < math.inf:
        raise ConfigError(f"--error: expected a number above 0, found {error}; what loses nothing is shown anyway")
    if not math.isfinite(sample * 1e6):
        raise ConfigError(f"--sample: expected a number of MB, found {sample}")
    tried = measure.candidates(error, codec or [], differences=differences)
    part = sampled(arrays_of_file(file), arrays_of_file(base) if base else {}, int(sample * 1e6))
    found = [measure.measured(text, part) for text in progress(tried, "measuring")]
    chosen = measure.recommended(found, error, differences=differences)
    title = f"{file.name}: {part.of / 1e6:,.1f} MB" + (f", from {part.nbytes / 1e6:,.1f}" * (part.nbytes < part.of))
    if plot:
        advice.draw(found, title, plot)
    if output is Format.JSON:
        rows = [asdict(one) for one in found]
        names = {link: {need: one.pipeline for need, one in by_need.items()} for link, by_need in chosen.items()}
        print(dumps({"file": str(file), "error": error, "pipelines": rows, "recommended": names}))
        return
    console.print(advice.costs(found, title))
    console.print(advice.advice(chosen, error, part.of))
