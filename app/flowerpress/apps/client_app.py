"""The client app: train and evaluate on this node's part of the images."""

from typing import cast

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress.apps.config import Config
from flowerpress.apps.data import Images, Partitioning, client_images
from flowerpress.federation.mod import press_mod

app = ClientApp(mods=[press_mod])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global model for some epochs; reply with its state and the number of images."""
    from flowerpress.apps import classify

    config, images = _prepare(context)
    model = classify.model_for(images, config.seed)
    model.load_state_dict(_arrays(message).to_torch_state_dict())
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

    config, images = _prepare(context)
    model = classify.model_for(images, config.seed)
    model.load_state_dict(_arrays(message).to_torch_state_dict())
    loss, accuracy = classify.evaluate(model, images)
    metrics = MetricRecord({"loss": loss, "accuracy": accuracy, "num-examples": len(images)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def _prepare(context: Context) -> tuple[Config, Images]:
    import torch

    config = Config.read(context.run_config)
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    parts = int(context.node_config["num-partitions"])
    partitioning = Partitioning(config.dataset, config.partitioner, config.dirichlet_alpha, config.seed, parts)
    return config, client_images(partitioning, int(context.node_config["partition-id"]))


def _arrays(message: Message) -> ArrayRecord:
    return message.content.array_records["arrays"]
