"""An encoder as options describe it: its weights, its device, and the batches that it is fed, with a progress bar."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from flowerpress.errors import ConfigError
from flowerpress.extraction.inference import Latents, encoded, images_of
from flowerpress.extraction.models import load_weights, model_for
from flowerpress.extraction.options import Params
from flowerpress.extraction.storage import reading

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

_DEBUG = 2  # batches


class Encoder:
    """A model on its device.

    Parameters
    ----------
    model : torch.nn.Module
        With its weights; it is moved to the GPU if there is one.
    cuda_use : bool
        Whether a GPU may be used.
    mixed_precision : bool
        Whether the model may compute in bfloat16.
    """

    def __init__(self, model: "nn.Module", *, cuda_use: bool = True, mixed_precision: bool = False) -> None:
        import torch

        self.using_gpu = cuda_use and torch.cuda.is_available()
        self.mixed_precision = mixed_precision
        self.model = model.to("cuda" if self.using_gpu else "cpu")

    @classmethod
    def of(
        cls, opt: Params, checkpoint: str | Path, *, model: "nn.Module | None" = None, remove_module: bool = True
    ) -> Self:
        """Return the encoder that options name, or ``model``, with the weights of a checkpoint, if one is given.

        Raises OSError, ChunkError or ConfigError as `reading`, `load_weights` and `model_for` do.
        """
        made = model_for(opt) if model is None else model
        if str(checkpoint):
            with reading(checkpoint) as path:
                load_weights(made, path, remove_module=remove_module)
        elif model is None:
            raise ConfigError("expected model_path, or a model with its weights, found neither")
        cuda_use, mixed_precision = (getattr(opt, name, None) for name in ("cuda_use", "mixed_precision"))
        return cls(made, cuda_use=cuda_use is not False, mixed_precision=bool(mixed_precision))

    def over(self, loader: "DataLoader[Any]", name: str, *, debug: bool = False) -> Iterator[Latents]:
        """Yield the latents of each batch of a loader, of the first two in debug mode.

        Raises ChunkError that says ``name`` if the loader's workers hang or crash.
        """
        images = islice(images_of(loader, name), _DEBUG if debug else None)
        batches = _shown(images, name, len(loader.dataset))  # type: ignore[arg-type]
        return encoded(self.model, batches, using_gpu=self.using_gpu, mixed_precision=self.mixed_precision)


class _Speed(TextColumn):
    """Images per second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} images/s")


def _shown(batches: "Iterator[Tensor]", name: str, images: int) -> "Iterator[Tensor]":
    """Yield batches, with a bar where someone sees it, and the images per second."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), _Speed())
    progress = Progress(*columns)
    progress.disable = not progress.console.is_terminal
    with progress:
        task = progress.add_task(name, total=images)
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))
