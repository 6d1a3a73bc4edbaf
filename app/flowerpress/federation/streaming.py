"""FedAvg that folds each reply into its sums as it comes, and drops it: memory for one reply, however many clients.

Replies come in any order. The sums are kept in float64, where the order of a sum is far below what a float32 model
shows; stock `FedAvg`, on replies in a fixed order, is the one to take for equal bits.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from flowerpress.codecs.dtypes import Host, dtype_name, sum_dtype
from flowerpress.errors import ConfigError, RunError
from flowerpress.federation.grid import PressGrid
from flowerpress.federation.protocol import records_of
from flowerpress.federation.screening import metrics_of


class StreamingFedAvg(FedAvg):
    """Flower's FedAvg, with its parameters, for a PressGrid: at no time it holds more than one reply.

    Integer arrays are averaged to float64, as FedAvg does; floats, complex ones too, keep their dtype.
    """

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds, as `Strategy.start` does; ConfigError if the grid is no PressGrid."""
        if not isinstance(grid, PressGrid):
            raise ConfigError(f"StreamingFedAvg: expected a PressGrid, found {type(grid).__name__}")
        self._exchanges = grid.exchanges
        streaming = copy(grid)
        streaming.send_and_receive = grid.stream  # type: ignore[method-assign]
        return super().start(streaming, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold the replies as they come; nothing is aggregated in a round that failed.

        Raises RunError for replies without exactly one ArrayRecord and one weight, on which FedAvg ends the run, too.
        """
        sums: dict[str, Host] = {}
        dtypes: dict[str, np.dtype[np.generic]] = {}
        metrics: list[RecordDict] = []
        for reply in replies:
            if reply.has_error():
                continue
            metrics.append(RecordDict({**records_of(reply.content, MetricRecord)}))
            self._fold(reply.content, sums, dtypes)
        if not metrics or self._exchanges[-1].failed:
            return None, None
        total = sum(self._weight(content) for content in metrics)
        arrays = ArrayRecord()
        for key in list(sums):
            x = np.asarray(sums.pop(key) / total)
            arrays[key] = Array(x.astype(dtypes[key]) if np.issubdtype(dtypes[key], np.inexact) else x)
        return arrays, self.train_metrics_aggr_fn(_alike(metrics), self.weighted_by_key)

    def _fold(self, content: RecordDict, sums: dict[str, Host], dtypes: dict[str, np.dtype[np.generic]]) -> None:
        """Add the weighted arrays of a reply, one after the other."""
        weight = self._weight(content)
        if len(records := records_of(content, ArrayRecord)) != 1:
            raise RunError(f"StreamingFedAvg: expected one ArrayRecord in each reply, found {list(records)}")
        (record,) = records.values()
        for key, array in record.items():
            x = array.numpy()
            dtypes.setdefault(key, x.dtype)
            weighted = np.asarray(np.multiply(x, weight, dtype=sum_dtype(dtype_name(x))))  # an array with no axes, too
            sums[key] = np.add(sums[key], weighted, out=weighted) if key in sums else weighted

    def _weight(self, content: RecordDict) -> float:
        key = self.weighted_by_key
        found = [record[key] for record in records_of(content, MetricRecord).values() if key in record]
        if len(found) != 1 or isinstance(found[0], list):
            raise RunError(f"StreamingFedAvg: expected one number {key!r}, the weight, in each reply, found {found}")
        return float(found[0])


def _alike(contents: list[RecordDict]) -> list[RecordDict]:
    """Return those with the metrics that most have: a reply that came before others was not compared with them."""
    kinds = list(map(metrics_of, contents))
    ((usual, _),) = Counter(kinds).most_common(1)
    return [content for content, kind in zip(contents, kinds, strict=True) if kind == usual]
