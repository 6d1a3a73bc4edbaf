"""``flowerpress extract``: latents of images in HDF5 files."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from flowerpress.cli.shared import AsFormat, Format, explain, say

commands = typer.Typer()


@commands.command()
@explain
def extract(
    options: Annotated[Path, typer.Argument(help="The option file: which encoder, and where latents go.")],
    files: Annotated[list[str], typer.Argument(help="HDF5 files of images: paths, or s3://bucket/key.")],
    clobber: Annotated[
        bool, typer.Option("--clobber", help="Do files whose latents are there already as well.")
    ] = False,
    output: AsFormat = Format.TABLE,
) -> None:
    """Run an encoder over images, and write its latents.

    flowerpress extract opts.json images_preproc.h5 s3://bucket/PreProc/more_preproc.h5

    Option files are Nenya's. A file that is damaged is left out and named, and the
    others are done; then it exits with 1. Across clients: run the app with
    -c "task='extract' encoder='…' images='…'".
    """
    from flowerpress.extraction import main
    from flowerpress.extraction.latents import latents_name

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("flowerpress").setLevel(logging.INFO)
    main(options, files, clobber=clobber)
    names = [latents_name(file) for file in files]
    say(output, "\n".join(names), latents=names)
