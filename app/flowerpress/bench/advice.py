"""Codecs on a checkpoint for a person: what each costs, what to send over which link, and both as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from flowerpress.arrays.files import check_folder
from flowerpress.bench.measure import EXACT, FEEDBACK, LINKS, WITHIN, Measured
from flowerpress.errors import ConfigError

_PICTURES = (".png", ".svg", ".pdf")


def costs(found: Sequence[Measured], title: str) -> Table:
    """Return a table with a row per pipeline; it fits into 80 columns, with long pipelines folded."""
    table = Table(title=title)
    table.add_column("pipeline", overflow="fold", ratio=1)
    for name in ("MB", "ratio", "error", "encode s", "decode s"):
        table.add_column(name, justify="right")
    for one in found:
        table.add_row(
            Text(one.pipeline),
            f"{one.nbytes / 1e6:,.2f}",
            f"{one.raw_bytes / one.nbytes:.1f}x",
            "0" if one.lossless else f"{one.error:.2g}",
            f"{one.encode:.2f}",
            f"{one.decode:.2f}",
        )
    return table


def advice(chosen: Mapping[str, Mapping[str, Measured]], error: float, raw_bytes: int) -> Table:
    """Return a table with what to send over each link; ``times`` is beside the uncompressed bytes on that link."""
    needs = {EXACT: "nothing", WITHIN: f"error {error:g}", FEEDBACK: "what feedback makes up for"}
    table = Table(title="encoding, sending and decoding, one after the other")
    for name in ("link", "may be lost"):
        table.add_column(name)
    table.add_column("the quickest", overflow="fold", ratio=1)
    for name in ("seconds", "times"):
        table.add_column(name, justify="right")
    for link, by_need in chosen.items():
        table.add_section()
        for i, (need, one) in enumerate(by_need.items()):
            seconds = one.seconds(LINKS[link])
            times = 8 * raw_bytes / LINKS[link] / seconds
            table.add_row(
                "" if i else link,
                needs[need],
                Text(one.pipeline),
                f"{seconds:.3g}",
                f"{times:.{1 if times < 10 else 0}f}x",
            )
    return table


def check_picture(path: Path) -> None:
    """Raise ConfigError for a picture of a kind that is not drawn, or in a folder that is not there."""
    if path.suffix not in _PICTURES:
        raise ConfigError(f"{path}: expected a picture that ends in {', '.join(_PICTURES)}")
    check_folder(path)


def draw(found: Sequence[Measured], title: str, path: Path) -> None:
    """Draw size against error, and seconds against the speed of the link, each on logarithmic scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    speeds = np.geomspace(min(LINKS.values()), max(LINKS.values()), 50)
    exact = min((one.error for one in found if one.error), default=1.0) / 10  # a place for 0 on the axis
    for i, one in enumerate(found):
        color, label = f"C{i}", one.pipeline.replace("$", r"\$")
        left.plot(one.error or exact, one.nbytes / 1e6, "os"[i // 10 % 2], color=color)
        right.plot(speeds, [one.seconds(speed) for speed in speeds], color=color, ls="-:"[i // 10 % 2], label=label)
    left.set(xscale="log", yscale="log", xlabel="relative L2 error (leftmost: none)", ylabel="MB")
    right.set(xscale="log", yscale="log", xlabel="bit/s of the link", ylabel="seconds to encode, send and decode")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), fontsize="small", loc="outside right upper")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
