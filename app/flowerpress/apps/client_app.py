"""The client app: train and evaluate on this node's part of the images, or tell the latents of its own."""

from functools import partial
from typing import TYPE_CHECKING, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress.apps.config import Config
from flowerpress.apps.data import Images, Partitioning, client_images
from flowerpress.apps.latents import QUERY, answer, seen
from flowerpress.apps.ordered import PLACE
from flowerpress.federation.mod import press_mod

if TYPE_CHECKING:
    from torch import nn


def initial(context: Context) -> ArrayRecord:
    """Return the model that a run starts from, as the server makes it: it need not be sent."""
    from flowerpress.apps.models import model_for

    config, images = _settings(context)
    return ArrayRecord(model_for(config.model, images, config.seed).state_dict())


app = ClientApp(mods=[partial(press_mod, initial=initial)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model for some epochs; reply with its state and the number of images."""
    from flowerpress.apps import classify

    config, images, model = _prepare(message, context)
    server_round = message.content.config_records["config"]["server-round"]
    seed = config.seed + 1000 * cast("int", server_round) + int(context.node_config["partition-id"])
    loss = classify.train(
        model,
        images,
        epochs=config.local_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=seed,
    )
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(images)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this node's images."""
    from flowerpress.apps import classify

    _, images, model = _prepare(message, context)
    loss, accuracy = classify.evaluate(model, images)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(images)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which partition this node has; see `OrderedGrid`."""
    place = ConfigRecord({"partition-id": int(context.node_config["partition-id"])})
    return Message(RecordDict({PLACE: place}), reply_to=message)


@app.query(QUERY.partition(".")[2])
def latents(message: Message, context: Context) -> Message:
    """Reply with latents of this node's images; see `flowerpress.apps.latents`."""
    return answer(message, context)


def _prepare(message: Message, context: Context) -> tuple[Config, Images, "nn.Module"]:
    """Return the configuration, this node's images, and the model with the state that the message carries."""
    from flowerpress.apps.models import model_with

    config, images = _settings(context)
    return config, images, model_with(config.model, images, _arrays(message).to_torch_state_dict())


def _settings(context: Context) -> tuple[Config, Images]:
    """Return the configuration and this node's images; set the threads of torch."""
    import torch

    config = Config.read(context.run_config)
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    parts = int(context.node_config["num-partitions"])
    images = client_images(Partitioning.of(config, parts), int(context.node_config["partition-id"]))
    return config, seen(images, config)


def _arrays(message: Message) -> ArrayRecord:
    return message.content.array_records["arrays"]
