"""FedAvg for models larger than memory: replies wait on disk as bundles, and are averaged slice by slice into Zarr."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg

from flowerpress.arrays.average import Model, average
from flowerpress.arrays.places import store_path
from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack
from flowerpress.errors import RunError
from flowerpress.federation.protocol import records_of
from flowerpress.records import LatentRecord
from flowerpress.wire import values_of


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
        """Average the replies; RunError if all of them are plain: they take memory for whole models."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        contents = [message.content for message in valid]
        weights = [float(_metrics(content)[self.weighted_by_key]) for content in contents]  # type: ignore[arg-type]
        records = [record for content in contents for record in records_of(content, ArrayRecord).values()]
        if not any(map(_bundle, records)):
            raise RunError("ChunkwiseFedAvg: expected replies that PressGrid brought, compressed, found plain arrays")
        bundles = [_bundle(record) or Bundle(pack(values_of(record), "raw")) for record in records]
        models = [(weight / sum(weights), bundle) for weight, bundle in zip(weights, bundles, strict=True)]
        place = Path(tempfile.mkdtemp(prefix=f"flowerpress-round-{server_round}-", dir=self._folder))
        model = average(store_path(place), models)
        weakref.finalize(model, shutil.rmtree, place, ignore_errors=True)
        return LatentRecord.of(model), self.train_metrics_aggr_fn(contents, self.weighted_by_key)


def _bundle(record: ArrayRecord) -> Model | None:
    return record.bundle if isinstance(record, LatentRecord) else None


def _metrics(content: Any) -> MetricRecord:  # noqa: ANN401
    (record,) = records_of(content, MetricRecord).values()
    return record
