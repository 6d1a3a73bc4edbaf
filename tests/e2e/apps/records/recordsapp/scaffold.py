"""SCAFFOLD (Karimireddy et al. 2020) as a strategy: two ArrayRecords down, and two up."""

from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords


class Scaffold(FedAvg):
    """FedAvg with control variates: ``control`` is what the server has, a mean over all nodes."""

    def __init__(self, control: ArrayRecord, **kwargs):
        super().__init__(**kwargs)
        self.control = control
        self.num_nodes = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Add the control variate to each message."""
        self.num_nodes = len(list(grid.get_node_ids()))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content["control"] = self.control
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the models, and move the control variate by what the nodes moved theirs."""
        contents = [reply.content for reply in replies if reply.has_content()]
        if not contents:
            return None, None
        arrays = ArrayRecord()
        for key in contents[0]["arrays"]:
            arrays[key] = Array(np.mean([content["arrays"][key].numpy() for content in contents], axis=0))
        control = self.control.to_numpy_ndarrays()
        for content in contents:
            for own, change in zip(control, content["control-change"].to_numpy_ndarrays(), strict=True):
                own += change / self.num_nodes
        self.control = ArrayRecord({k: Array(x) for k, x in zip(self.control, control, strict=True)})
        return arrays, aggregate_metricrecords(contents, self.weighted_by_key)
