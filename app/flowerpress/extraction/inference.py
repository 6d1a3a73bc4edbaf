"""An encoder over batches of images: latents come out batch by batch, so that memory does not depend on their number.

On a GPU a batch is computed while the one before it is on its way back, and the next one on its way there.
"""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowerpress.errors import ChunkError, ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

Latents = NDArray[np.float32]


def calc_latent(model: "nn.Module", image_tensor: "torch.Tensor", using_gpu: bool) -> Latents:
    """Return the latents of a batch of images.

    Parameters
    ----------
    model : torch.nn.Module
        The encoder; it is put into evaluation mode.
    image_tensor : torch.Tensor
        Images of shape (n, 3, h, w).
    using_gpu : bool
        Whether the model is on the GPU, where the images are brought.

    Returns
    -------
    ndarray
        float32, of shape (n, …) as the model makes it: (n, feat_dim) of a `SupConResNet`.
    """
    return next(encoded(model, [image_tensor], using_gpu=using_gpu))


def encoded(
    model: "nn.Module", batches: Iterable["torch.Tensor"], *, using_gpu: bool, mixed_precision: bool = False
) -> Iterator[Latents]:
    """Yield the latents of each batch, as `calc_latent`, one behind; in bfloat16 where a model may, if asked.

    Raises ConfigError if the model returns anything but a tensor with a row per image.
    """
    import torch

    kind = "cuda" if using_gpu else "cpu"
    model.eval()
    precision = torch.autocast(kind, torch.bfloat16) if mixed_precision else nullcontext()
    waiting: _Waiting | None = None
    for images in batches:
        with torch.inference_mode():  # not around a yield: whoever takes the latents may train
            with precision:
                made = model(images.to(kind, non_blocking=True))
            if not (isinstance(made, torch.Tensor) and made.shape[:1] == images.shape[:1]):
                raise ConfigError(f"expected a tensor with {len(images)} rows from the model, found {_described(made)}")
            latest = _Waiting(made.float())
        if waiting is not None:
            yield waiting.arrived()
        waiting = latest
    if waiting is not None:
        yield waiting.arrived()


def images_of(loader: Iterable[Any], name: str) -> Iterator["torch.Tensor"]:
    """Yield the images of each batch of a loader; ChunkError that says ``name`` if its workers hang or crash."""
    batches = iter(loader)
    try:
        while (batch := next(batches, None)) is not None:
            yield batch[0]
    except ChunkError as error:  # a worker's, with its traceback in the words
        error.__traceback__ = None  # it is part of a cycle, and would keep the workers
        words = str(error).strip().splitlines()[-1]
        raise ChunkError(words.removeprefix(f"{ChunkError.__module__}.{ChunkError.__name__}: ")) from None
    except RuntimeError as error:
        raise ChunkError(f"{name}: expected a batch of images; reading it hung or crashed: {error}") from error
    finally:
        del batches  # its workers end now


class _Waiting:
    """Latents on their way from a device; where there is none, they have arrived."""

    def __init__(self, made: "torch.Tensor") -> None:
        import torch

        self._event = None
        if made.is_cuda:
            self._host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True).copy_(made, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = made

    def arrived(self) -> Latents:
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


def _described(made: object) -> str:
    return f"shape {list(made.shape)}" if hasattr(made, "shape") else type(made).__name__
