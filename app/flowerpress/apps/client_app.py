"""The client app: do a job on this node's part of the images, or tell the latents of its own."""

from functools import partial
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress.apps.config import Config
from flowerpress.apps.jobs import Job, job_for
from flowerpress.apps.latents import QUERY, answer
from flowerpress.apps.ordered import PLACE
from flowerpress.apps.own import images_of
from flowerpress.federation.mod import press_mod


def initial(context: Context) -> ArrayRecord:
    """Return the model that a run starts from, as the server makes it: it need not be sent."""
    return ArrayRecord(dict(_job(context).initial()))


app = ClientApp(mods=[partial(press_mod, initial=initial)])


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do the run's job for some epochs; reply with the state and the number of images."""
    job = _job(context)
    server_round = cast("int", message.content.config_records["config"]["server-round"])
    seed = job.config.seed + 1000 * server_round + int(context.node_config["partition-id"])
    state, loss = job.train(_arrays(message).to_torch_state_dict(), server_round, seed)
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(job.images)})
    return Message(RecordDict({"arrays": ArrayRecord(dict(state)), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this node's images."""
    job = _job(context)
    figures = job.evaluate(_arrays(message).to_torch_state_dict())
    metrics = MetricRecord({**figures, "num-examples": len(job.images)})
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


def _job(context: Context) -> Job:
    """Return this node's job; set the threads of torch."""
    import torch

    config = Config.read(context.run_config)
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    return job_for(config, images_of(config, context))


def _arrays(message: Message) -> ArrayRecord:
    return message.content.array_records["arrays"]
