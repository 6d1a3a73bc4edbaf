"""What goes wrong at a client, by name: in its app, in what it sends, or with its process."""

import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flowerpress.chunks.content import cache_folder
from flowerpress.federation import mod
from flowerpress.federation.fold import unfold

SLOW = 40.0  # seconds
BUNDLE = "flowerpress.bundle"


def put(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[RecordDict], None]:
    def spoil(content: RecordDict) -> None:
        record = content.array_records["arrays"]
        record[key] = Array(change(record[key].numpy()))

    return spoil


def poked(value: float) -> Callable[[RecordDict], None]:
    return put("w", lambda w: np.where(np.arange(w.size).reshape(w.shape) == 7, np.float32(value), w))


def weight(value: float) -> Callable[[RecordDict], None]:
    return lambda content: content.metric_records["metrics"].update({"num-examples": value})


def extra(content: RecordDict) -> None:
    content.array_records["arrays"]["more"] = Array(np.zeros(3, np.float32))


def missing(content: RecordDict) -> None:
    del content.array_records["arrays"]["b"]


IN_THE_APP: dict[str, Callable[[RecordDict], None]] = {
    "nan": poked(np.nan),
    "infinity": poked(np.inf),
    "huge": put("w", lambda w: w * np.float32(1e6)),
    "shape": put("w", np.transpose),
    "broadcast": put("b", lambda b: b[:1]),
    "dtype": put("b", lambda b: b.astype(np.float16)),
    "missing": missing,
    "extra": extra,
    "weight-zero": weight(0),
    "weight-negative": weight(-5),
    "weight-nan": weight(np.nan),
    "weight-huge": weight(1e30),
}


class Canary:
    """A pickle that tells if somebody loads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(os.environ["FLWR_HOME"], "pickle-was-loaded"),)


def _array(stype: str, data: bytes) -> RecordDict:
    record = ArrayRecord()
    record[BUNDLE] = Array("uint8", (len(data),), stype, data)
    return RecordDict({"arrays": record})


def _flipped(content: RecordDict) -> RecordDict:
    """Flip a bit in what the pressed reply holds, wherever Flower's objects keep it."""
    (record,) = content.config_records.values()
    data = bytearray(record["folded"])
    data[len(data) // 2] ^= 1
    record["folded"] = bytes(data)
    return content


ON_THE_WIRE: dict[str, Callable[[RecordDict], RecordDict]] = {
    "garbage": lambda _: _array(BUNDLE, os.urandom(1000)),
    "pickle": lambda _: _array("pickle", pickle.dumps(Canary())),
    "flip": _flipped,
    "replay": lambda _: pickle.loads(_kept().read_bytes()),
}


def fault_of(content: RecordDict, context: Context) -> str:
    """Return what is to go wrong now, or ""."""
    here = content.config_records["config"]["server-round"], context.node_config["partition-id"]
    for text in filter(None, str(context.run_config["faults"]).split(",")):
        number, partition, kind = text.split(":")
        if (int(number), int(partition)) == here:
            return kind
    return ""


def inside(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod between the app and `press_mod`."""
    kind = fault_of(message.content, context)
    if kind == "die-train":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "slow":
        time.sleep(SLOW)
    reply = call_next(message, context)
    IN_THE_APP.get(kind, lambda _: None)(reply.content)
    if kind == "die-encode":
        mod.press = _die_in_the_middle
    return reply


def outside(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A mod between `press_mod` and Flower."""
    kind = fault_of(unfold(message.content), context)
    if kind == "lost-cache":
        shutil.rmtree(cache_folder(), ignore_errors=True)  # the message comes again, whole
    reply = call_next(message, context)
    if kind in ON_THE_WIRE:
        reply.content = ON_THE_WIRE[kind](reply.content)
    elif kind == "keep":
        _kept().write_bytes(pickle.dumps(reply.content))
    return reply


def _kept() -> Path:
    return Path(os.environ["FLWR_HOME"], "reply")


def _die_in_the_middle(record: ArrayRecord, *arguments: object, **options: object) -> ArrayRecord:
    """Press a record, and end with nothing of it sent."""
    mod_press(record, *arguments, **options)  # type: ignore[arg-type]
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


mod_press = mod.press
