"""A look at latents: their first two principal components (Pearson, 1901), by client, and how much each explains."""

from pathlib import Path

import numpy as np

from flowerpress.apps.gathered import ZARR
from flowerpress.arrays.places import place_of
from flowerpress.errors import ConfigError

_MOST = 20_000  # points
_SHOWN = 10  # clients with a colour, and components


def is_for(folder: Path) -> bool:
    """Tell whether a run left latents."""
    return (folder / ZARR).is_dir()


def draw(folder: Path) -> Path:
    """Draw the latents of a run; return the path of the PNG. ConfigError if they are fewer than two."""
    from matplotlib.figure import Figure

    stored, owners = (place_of(folder / ZARR / name).open() for name in ("latents", "client"))
    count = stored.shape[0]
    if count < 2:
        raise ConfigError(f"{folder}: expected two latents or more to look at, found {count}")
    rows = slice(None, None, -(-count // _MOST))
    latents = np.asarray(stored[rows], np.float64).reshape(len(range(count)[rows]), -1)
    clients = np.asarray(owners[rows])
    points, shares = components(latents)
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for number, client in enumerate(np.unique(clients)[:_SHOWN]):
        mine = points[clients == client]
        left.scatter(mine[:, 0], mine[:, 1], s=6, alpha=0.6, color=f"C{number}", label=f"client {client}")
    left.set(xlabel="first principal component", ylabel="second")
    left.legend(fontsize="small", markerscale=2)
    right.bar(range(1, len(shares) + 1), 100 * shares)
    right.set(xlabel="principal component", ylabel="variance explained (%)")
    figure.suptitle(f"{count:,} latents of shape {list(stored.shape[1:])}")
    path = folder / "plot.png"
    figure.savefig(path, dpi=120)
    return path


def components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the projections of rows on their first two principal components, and the shares of the first ten."""
    centred = x - x.mean(axis=0)
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    shares = scales**2 / max(float((scales**2).sum()), np.finfo(float).tiny)
    points = np.zeros((len(x), 2))
    points[:, : len(directions[:2])] = centred @ directions[:2].T
    return points, shares[:_SHOWN]
