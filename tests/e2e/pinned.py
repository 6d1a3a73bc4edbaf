"""Put beside a copy of an app: the same app, with what is random the same in every run, and its bytes counted.

Flower's engines draw node ids, and hand replies on in the order of a set. The app itself is left as it is.
"""

import json
import os
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from flowerpress.apps.counting import CountingGrid
from flowerpress.apps.ordered import PLACE, OrderedGrid

FOLDER, COUNTS = "pinned-folder", "counts.json"  # in the run's configuration; in that folder


def app_of(module: str) -> Any:
    """Return the app in a module of the only package here; not before there is one."""
    (package,) = Path(__file__).parent.glob("*/server_app.py")
    return import_module(f"{package.parent.name}.{module}").app


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(number)


class Client(ClientApp):
    """The client app of the app, seeded with its partition; it says which one that is when the server asks."""

    def __call__(self, message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        if message.metadata.message_type == "query":
            return Message(RecordDict({PLACE: ConfigRecord({"partition-id": partition})}), reply_to=message)
        app = app_of("client_app")
        seed(partition)
        return app(message, context)


client = Client()
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the server app in the folder for its results."""
    os.chdir(str(context.run_config[FOLDER]))
    app, counting = app_of("server_app"), CountingGrid(OrderedGrid(grid, seed=1))
    seed(2)
    app(counting, context)
    Path(COUNTS).write_text(json.dumps(counting.counts))
