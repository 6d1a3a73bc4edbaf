"""What ``flowerpress bench`` recommends for a real checkpoint of 90 MB, beside an exhaustive run.

The checkpoint is all-MiniLM-L6-v2 after 40 steps of SGD, the base the same before. The exhaustive run measures many
more pipelines, each in several turns that alternate, on the whole checkpoint, and looks for the quickest for each link
and need. The command is held to 60 seconds, and what it recommends to the time of the best that was found.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

from rich.text import Text
from safetensors.numpy import save_file

from flowerpress.bench.measure import EXACT, FEEDBACK, LINKS, WITHIN, Measured, candidates, measured
from flowerpress.bench.sample import sampled
from tests.benchmarks.data import minilm_updates
from tests.benchmarks.timing import claim, console, table

ERROR, TURNS = 0.1, 2
LIMIT, WORSE = 60.0, 1.1  # seconds of the command; times the best that the recommended may take


def family(*, differences: bool) -> list[str]:
    """Return the candidates of the command and their relatives, by every knob that they have."""
    before = "delta | " if differences else ""
    levels = [f"zstd(level={level})" for level in (1, 3, 6)]
    exact = [*levels, "planes | zstd(level=9)"]
    exact += [f"intdelta | {text}" for text in (*levels, "entropy")] if differences else ["auto"]
    blocks = [
        f"{before}quantize(bits={bits}, block={block}) | {last}"
        for bits, block, last in product((2, 4, 5, 6, 8), (32, 64, 256), ("bitpack", "entropy"))
    ]
    errors = [f"{before}budget(error={error})" for error in (ERROR, ERROR / 2, ERROR / 20)]
    casts = [f"{before}cast(dtype='{dtype}') | zstd" for dtype in ("float16", "bfloat16")]
    return [*exact, *blocks, *errors, *casts]


def exhaustive(arrays: dict, bases: dict, error: float) -> list[Measured]:
    """Measure everything, in turns that alternate: medians of seconds, bytes and errors as they are."""
    sample = sampled(arrays, bases, 1 << 62)
    tried = candidates(error, family(differences=bool(bases)), differences=bool(bases))
    turns = [[measured(text, sample) for text in tried] for _ in range(TURNS)]
    return [
        replace(same[0], encode=median(one.encode for one in same), decode=median(one.decode for one in same))
        for same in zip(*turns, strict=True)
    ]


def command(folder: Path, *base: str) -> tuple[dict, float]:
    """Return what ``flowerpress bench`` says, and the seconds that it took."""
    program = Path(sys.executable).with_name("flowerpress")
    call = [program, "bench", str(folder / "after.safetensors"), *base]
    started = time.monotonic()
    done = subprocess.run([*call, "--format", "json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout), time.monotonic() - started


def compare(title: str, said: dict, found: list[Measured], needs: tuple[str, ...]) -> None:
    by_name = {one.pipeline: one for one in found}
    shown = table(f"{title}: {len(found)} pipelines", "link", "need", "recommended", "s", "best of all", "s", "times")
    worst = 0.0
    for link, speed in LINKS.items():
        for need in needs:
            mine = by_name[said["recommended"][link][need]]
            best = min((one for one in found if one.meets(need, said["error"])), key=lambda one: one.seconds(speed))
            times = mine.seconds(speed) / best.seconds(speed)
            worst = max(worst, times)
            cells = (f"{mine.seconds(speed):.3g}", Text(best.pipeline), f"{best.seconds(speed):.3g}", f"{times:.2f}")
            shown.add_row(link, need, Text(mine.pipeline), *cells)
    console.print(shown)
    claim(f"{title}: seconds of what is recommended over those of the best", worst, most=WORSE)


def main() -> None:
    before, after = minilm_updates("sgd")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(before, folder / "before.safetensors")
        save_file(after, folder / "after.safetensors")
        for title, base, needs in (
            ("an update of 90 MB", ("--base", str(folder / "before.safetensors")), (EXACT, WITHIN, FEEDBACK)),
            ("weights of 90 MB", (), (EXACT, WITHIN)),
        ):
            said, seconds = command(folder, *base)
            claim(f"{title}: seconds that the command takes", seconds, most=LIMIT)
            compare(title, said, exhaustive(after, before if base else {}, said["error"]), needs)


if __name__ == "__main__":
    main()
