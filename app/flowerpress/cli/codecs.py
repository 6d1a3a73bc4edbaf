"""``flowerpress train-codec``: learned codecs of features."""

from pathlib import Path
from typing import Annotated

import typer

from flowerpress.cli.shared import AsFormat, Format, console, explain
from flowerpress.jsons import dumps

commands = typer.Typer()


@commands.command("train-codec")
@explain
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
        print(dumps({"file": str(target), **vars(done)}))
        return
    console.print(
        f"{done.parameters:,} parameters; held-out features: {done.rate:.4f} bits per value, "
        f"mean squared error {done.distortion:.4g}",
        markup=False,
    )
    console.print(f"learned(model='{model}', weights='{done.digest}')", markup=False)
