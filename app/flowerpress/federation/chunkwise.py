"""FedAvg for models larger than memory: replies wait on disk as bundles, and are averaged slice by slice into Zarr."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from flowerpress.arrays.average import average
from flowerpress.arrays.places import store_path
from flowerpress.errors import RunError
from flowerpress.federation.protocol import records_of
from flowerpress.records import LatentRecord


class ChunkwiseFedAvg(FedAvg):
    """Flower's FedAvg, with its parameters, for a PressGrid: memory is a slice of an array, whatever the model.

    Sums are in float64, in the order of the replies, and cast once. The model that a round ends with is a
    `LatentRecord` over a Zarr group, and reads one array at a time.

    Parameters
    ----------
    folder : Path, optional
        Where models are as long as somebody has them; by default the folder for temporary files.
    """

    def __init__(self, *args: Any, folder: Path | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - FedAvg's
        super().__init__(*args, **kwargs)
        self._folder = folder

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies; RunError for one that PressGrid did not bring."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        contents = [message.content for message in valid]
        weights = [float(_metrics(content)[self.weighted_by_key]) for content in contents]  # type: ignore[arg-type]
        models = []
        for weight, content in zip(weights, contents, strict=True):
            (record,) = records_of(content, ArrayRecord).values()
            if not isinstance(record, LatentRecord) or record.bundle is None:
                raise RunError("ChunkwiseFedAvg: expected replies that PressGrid brought, compressed")
            models.append((weight / sum(weights), record.bundle))
        place = Path(tempfile.mkdtemp(prefix=f"flowerpress-round-{server_round}-", dir=self._folder))
        model = average(store_path(place), models)
        weakref.finalize(model, shutil.rmtree, place, ignore_errors=True)
        return LatentRecord.of(model), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def _metrics(content: Any) -> MetricRecord:  # noqa: ANN401
    (record,) = records_of(content, MetricRecord).values()
    return record
