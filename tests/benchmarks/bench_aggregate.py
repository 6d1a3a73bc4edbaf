"""Averaging eight replies of a 2 GB model, which wait on disk: memory and seconds of ChunkwiseFedAvg and stock FedAvg.

The result is compared, bit by bit, with ``sum += w * x`` in float64, in the order of the replies, cast once. It takes
20 GB of disk. ``bench_aggregate.py 0.2`` takes a model of 0.2 GB.
"""

import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack, save
from flowerpress.federation.chunkwise import ChunkwiseFedAvg
from flowerpress.records import LatentRecord
from tests.benchmarks.timing import claim, console, table

REPLIES, ARRAYS, COLUMNS = 8, 16, 4096
BAR = 1.5e9  # bytes of anonymous memory, of the whole process
WEIGHTS = [10.0 + 3 * i for i in range(REPLIES)]


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    rows = int(gigabytes * 1e9 / ARRAYS / COLUMNS / 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(REPLIES):
            save(folder / f"{number}.fpb", pack(dict(model(number, rows)), "raw", keep_input=False))
        shown = table(f"{REPLIES} replies of {gigabytes:g} GB", "", "peak RssAnon, MB", "s")
        found = {}
        for label, run in (("ChunkwiseFedAvg", chunkwise), ("stock FedAvg", stock)):
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                found[label] = fresh.submit(measured, run, folder, rows).result()
            shown.add_row(label, f"{found[label][0] / 1e6:,.0f}", f"{found[label][1]:.1f}")
        console.print(shown)
    claim("peak anonymous memory of ChunkwiseFedAvg, GB", found["ChunkwiseFedAvg"][0] / 1e9, most=BAR / 1e9)
    claim("arrays that differ from float64 sums, cast once", found["ChunkwiseFedAvg"][2], most=0)


def model(number: int, rows: int) -> Iterator[tuple[str, np.ndarray]]:
    """Return the arrays of a reply."""
    for i in range(ARRAYS):
        rng = np.random.default_rng([number, i])
        yield f"layer{i}.weight", rng.random((rows, COLUMNS), np.float32) - np.float32(0.5)


def messages(folder: Path) -> list[Message]:
    """Return the replies as PressGrid hands them on."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    found = []
    for number, weight in enumerate(WEIGHTS):
        record = LatentRecord.of(Bundle.open(folder / f"{number}.fpb"))
        content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": weight})})
        found.append(Message(content, dst_node_id=number, message_type="train"))
    return found


def chunkwise(folder: Path) -> ArrayRecord | None:
    return ChunkwiseFedAvg(folder=folder).aggregate_train(1, messages(folder))[0]


def stock(folder: Path) -> ArrayRecord | None:
    return FedAvg().aggregate_train(1, messages(folder))[0]


def measured(run: Callable[[Path], ArrayRecord | None], folder: Path, rows: int) -> tuple[int, float, int]:
    """Return peak memory and seconds of an aggregation, and how many arrays are not what float64 sums give."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    found = run(folder)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    assert found
    return peak[0], seconds, 0 if run is stock else differences(found, rows)


def differences(found: ArrayRecord, rows: int) -> int:
    count = 0
    for arrays in zip(*(model(number, rows) for number in range(REPLIES)), strict=True):
        total = np.zeros((rows, COLUMNS))
        for weight, (_, x) in zip(WEIGHTS, arrays, strict=True):
            total += weight / sum(WEIGHTS) * x.astype(np.float64)
        count += not np.array_equal(found[arrays[0][0]].numpy(), total.astype(np.float32))
    return count


def anonymous() -> int:
    """Return the anonymous memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


if __name__ == "__main__":
    main()
