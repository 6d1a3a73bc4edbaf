"""Latents in the app: what a client does when it is asked for them, and images as an encoder sees them.

::

    HDF5 images ─► encoder ─► latents ─► a file of the client's own, if it is to keep them ─► reply
"""

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from flowerpress.apps.config import Config
from flowerpress.apps.data import Images
from flowerpress.arrays.files import arrays_of_file
from flowerpress.chunks.content import digest_of
from flowerpress.codecs.dtypes import to_host, to_tensor
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.wire import values_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from flowerpress.extraction.inference import Latents

QUERY = "query.extract"
_BATCH = 512  # images
ASKED, ANSWER, LATENTS = "asked", "extracted", "latents"  # records
WEIGHTS = "weights-"  # and a digest: the record of what a learned codec needs


def answer(message: Message, context: Context) -> Message:
    """Reply with the next latents of this client's images, a batch more than it is asked for at most.

    Where the client keeps its latents, they are made once for each encoder, all of them, and read from its file.
    """
    from flowerpress.extraction.probe import images
    from flowerpress.extraction.storage import kept

    _keep_weights(message)
    config, asked = Config.read(context.run_config), dict[str, Any](message.content.config_records[ASKED])
    client = int(context.node_config["partition-id"])
    start = dict(zip(asked["clients"], asked["rows"], strict=True)).get(client, 0)
    path = kept(place(context, "images", config.images))
    total, _ = images(path, config.image_partition)
    weights, parts, nbytes = message.content.array_records["arrays"], list["Latents"](), 0
    for part in _kept(weights, context, config, path, start, total):
        parts.append(part)
        nbytes += part.nbytes
        if nbytes >= asked["most-bytes"]:
            break
    latents = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    clients = int(context.node_config["num-partitions"])
    said = ConfigRecord({"client": client, "clients": clients, "start": start, "total": total})
    return Message(RecordDict({LATENTS: ArrayRecord({LATENTS: Array(latents)}), ANSWER: said}), reply_to=message)


def _keep_weights(message: Message) -> None:
    """Keep the weights of learned codecs that come with a question: the answer is coded with them."""
    for name, record in message.content.array_records.items():
        if name.startswith(WEIGHTS):
            from flowerpress.latent_codecs.weights import install

            if (digest := install(values_of(record))) != name.removeprefix(WEIGHTS):
                raise ChunkError(f"expected the weights {name.removeprefix(WEIGHTS)}, found {digest}")


def seen(images: Images, config: Config) -> Images:
    """Return images as a run's encoder sees them: a table of their latents; themselves if the run names none.

    A linear model on top of it is a linear probe (Alain & Bengio, 2016).
    """
    if not config.encoder:
        return images
    latents = features_of(images, config)
    return Images(latents.reshape(len(latents), 1, 1, -1), images.labels, images.classes)


def features_of(images: Images, config: Config) -> "Latents":
    """Return what a run's encoder makes of images, in the shape that it makes."""
    import torch

    from flowerpress.extraction.encoder import Encoder
    from flowerpress.extraction.inference import encoded

    encoder = Encoder(with_weights(config))
    pixels = torch.from_numpy(images.pixels)
    batches = (batch.expand(-1, 3, -1, -1) for batch in pixels.split(_BATCH))  # type: ignore[no-untyped-call]
    return np.concatenate(list(encoded(encoder.model, batches, using_gpu=encoder.using_gpu)))


def place(context: Context, name: str, otherwise: str) -> str:
    """Return a file or object of a client: as the node's own configuration says, or else the run's."""
    said = context.node_config.get(name) or otherwise
    return str(said).replace("{partition}", str(context.node_config["partition-id"]))


def with_weights(config: Config) -> "nn.Module":
    """Return the encoder that a run names, with the weights in its file, which may have more.

    Raises ConfigError if it lacks any.
    """
    found, model = arrays_of_file(Path(config.encoder)), encoder_of(config)
    if missing := [key for key in model.state_dict() if key not in found]:
        raise ConfigError(f"{config.encoder}: expected weights of {config.encoder_model}, found no {missing[0]!r}")
    model.load_state_dict({key: to_tensor(to_host(found[key])) for key in model.state_dict()})
    return model


def encoder_of(config: Config) -> "nn.Module":
    """Return the encoder that a run names, with random weights."""
    from flowerpress.extraction.models import model_for

    return model_for(SimpleNamespace(ssl_model=config.encoder_model))


def _kept(
    weights: ArrayRecord, context: Context, config: Config, path: Path, start: int, total: int
) -> "Iterator[Latents]":
    """Yield the latents of a file from an image on, out of the file where they are kept, if they are."""
    from flowerpress.extraction.storage import writing
    from flowerpress.extraction.written import Written, rows

    if not (config.latents or context.node_config.get("latents")):
        return _made(weights, config, path, range(start, total))
    own, name = Path(place(context, "latents", config.latents)), digest_of(values_of(weights))
    if rows(own, name) != total or own.stat().st_mtime < path.stat().st_mtime:
        with writing(own) as unfinished, Written(unfinished) as file:
            file.add(name, _made(weights, config, path, range(total)), empty=(0, 0))
    return Written.read(own, name, start, config.batch_size)


def _made(weights: ArrayRecord, config: Config, path: Path, images: range) -> "Iterator[Latents]":
    from flowerpress.extraction.encoder import Encoder
    from flowerpress.extraction.hdf5 import build_loader

    model = encoder_of(config)
    model.load_state_dict(weights.to_torch_state_dict())
    _, loader = build_loader(path, config.image_partition, config.batch_size, 0, images)
    return Encoder(model).over(loader, str(path))
