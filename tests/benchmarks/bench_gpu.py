"""On a GPU: a record of a billion bfloat16 values to 4 bits, beside the device's copies. Says so where there is none.

Prints the device and writes its figures, with the date, to ``tests/benchmarks/results/gpu.json``.
"""

import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from flowerpress import Spec, pack, parse
from flowerpress.codecs.bitpack import pack_bits
from flowerpress.codecs.quantize import Quantize
from tests.benchmarks.timing import claim, console

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PIPELINE = "quantize(bits=4, block=64) | bitpack"
LAYERS, WIDTH = 30, 5792  # 1.006e9 values in square matrices


def seconds(function: Callable[[], object], turns: int = 5) -> float:
    """Return the median time of a call, with the device idle before and after it."""
    found = []
    for turn in range(turns + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        if turn:
            found.append(time.perf_counter() - started)
    return median(found)


def on_device(record: dict[str, torch.Tensor]) -> None:
    """Run what happens before a byte leaves the device."""
    quantize = Quantize(bits=4, block=64)
    for key, x in record.items():
        q = quantize.encode(x, Spec.of(x, key))
        pack_bits(q[-x.numel() :] + 7, 4)  # type: ignore[arg-type, union-attr]


def main() -> None:
    if not torch.cuda.is_available():
        console.print("no CUDA device here: nothing to measure")
        return
    torch.manual_seed(0)
    record = {
        f"layer.{i}": torch.randn(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16) * 0.02 for i in range(LAYERS)
    }
    nbytes = sum(x.nbytes for x in record.values())
    small = {"w": record["layer.0"][:512].contiguous()}
    for text in (PIPELINE, "zstd", "quantize(step=0.001) | entropy", "intdelta | zstd"):
        bases = {"w": torch.zeros_like(small["w"])} if "delta" in text else None
        same = pack(dict(small), text, bases=bases) == pack(
            {"w": small["w"].cpu()}, text, bases=bases and {"w": bases["w"].cpu()}
        )
        claim(f"{text}: bytes like the CPU's", float(same), least=1.0)
    copy = seconds(lambda: [x.clone() for x in record.values()])
    device = seconds(lambda: on_device(record))
    whole = seconds(lambda: pack(dict(record), parse(PIPELINE)), turns=3)
    pageable = seconds(lambda: [x.cpu() for x in record.values()], turns=3)
    figures = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(),
        "raw GB": nbytes / 1e9,
        "device copy GB/s": nbytes / copy / 1e9,
        "device part GB/s": nbytes / device / 1e9,
        "pack s": whole,
        "plain copy to pageable memory s": pageable,
    }
    console.print_json(json.dumps(figures))
    claim("device part, share of the copy bandwidth", copy / device, least=0.5)
    claim("pack, times the plain copy", whole / pageable, most=1.0)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
