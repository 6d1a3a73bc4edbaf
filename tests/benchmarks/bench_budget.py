"""The rate controller on a real update of a ResNet-18: what was asked, what came, and how long it took."""

from statistics import median

import numpy as np

from flowerpress import Bundle, pack
from tests.benchmarks.resnet18 import update
from tests.benchmarks.timing import claim, console, interleaved, ratio, table

RATIOS = (20, 50, 100, 300)
ERRORS = (0.5, 0.1)


def main() -> None:
    base, after = update()
    raw = sum(x.nbytes for x in after.values())
    console.print(f"{sum(x.size for x in after.values()):,} values in {len(after)} arrays, {raw:,} bytes")
    shown = table("delta | budget", "asked", "ratio", "relative error", "step", "seconds", "times one encoding")
    for asked in RATIOS:
        shown.add_row(*measure(f"ratio={asked}", base, after, lambda data, _, asked=asked: asked * len(data) / raw))
    for asked in ERRORS:
        shown.add_row(*measure(f"error={asked}", base, after, lambda _, error, asked=asked: error / asked))
    console.print(shown)


def measure(asked: str, base: dict[str, np.ndarray], after: dict[str, np.ndarray], used: object) -> list[str]:
    """Return a row; ``used`` says which share of the budget the bundle, or its error, takes."""
    codec = f"delta | budget({asked})"
    data = pack(dict(after), codec, bases=base)
    bundle = Bundle(data, bases=base)
    settled = next(row["pipeline"] for row in bundle.rows() if "quantize" in row["pipeline"])
    error = relative_error(bundle, base, after)
    share = used(data, error)  # type: ignore[operator]
    claim(f"{asked}: share of the budget", share, most=1.0)
    claim(f"{asked}: share of the budget", share, least=0.98)
    seconds = interleaved(
        {
            "budget": lambda: pack(dict(after), codec, bases=base),
            "once": lambda: pack(dict(after), settled, bases=base),
        },
        turns=5,
    )
    times = ratio(seconds["budget"], seconds["once"])
    claim(f"{asked}: time, times one encoding", times, most=2.5)
    step = settled.split("step=")[1].split(",")[0]
    raw = sum(x.nbytes for x in after.values())
    return [
        asked,
        f"{raw / len(data):.2f}",
        f"{error:.4f}",
        f"{float(step):.3g}",
        f"{median(seconds['budget']):.2f}",
        f"{times:.2f}",
    ]


def relative_error(bundle: Bundle, base: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    """Return the L2 norm of the error over that of the update, of all floats."""
    wrong = moved = 0.0
    for key, x in after.items():
        if x.dtype == np.float32:
            wrong += float(np.square(bundle[key].astype(np.float64) - x).sum())
            moved += float(np.square(x.astype(np.float64) - base[key]).sum())
    return (wrong / moved) ** 0.5


if __name__ == "__main__":
    main()
