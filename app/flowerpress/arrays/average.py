"""Weighted averages of models that do not fit into memory, slice by slice, straight into Zarr.

Each slice is summed in float64, or complex128, in the order of the models, and cast once at the end::

    for each array, for each slice of it:    sum += w * x    for (w, x) in models    ──►  Zarr
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from flowerpress.arrays.group import Group, Writer
from flowerpress.chunks.bundle import Bundle
from flowerpress.codecs.base import Spec
from flowerpress.codecs.dtypes import Host, cast, is_complex, is_float, numpy_dtype, sum_dtype
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    from zarr.storage import StorePath

SLICE = 16 << 20  # bytes of an array that are summed at a time, or one chunk of a bundle that is larger
Model = Bundle | Group


def average(where: "StorePath", models: Sequence[tuple[float, Model]]) -> Group:
    """Write the sum of ``weight * array`` over models as a new group, and return it.

    Parameters
    ----------
    where : zarr.storage.StorePath
        Where the group will be.
    models : sequence of (float, Bundle or Group)
        A weight, which should add up to 1 over all models, and the arrays; all models have the same.

    Returns
    -------
    Group
        Floats and complex numbers have the dtype of the first model; integers and booleans are float64, as Flower
        averages them.

    Raises
    ------
    ConfigError
        If there are no models, or they have other arrays than the first.
    ChunkError
        If one of them is damaged.
    """
    if not models:
        raise ConfigError("average: expected at least one model, found none")
    first, writer = models[0][1], Writer(where)
    specs = _specs(first)
    for number, (_, model) in enumerate(models):
        found = _specs(model)
        for key in {**specs, **found}:
            if specs.get(key) != found.get(key):
                expected = f"expected {specs.get(key)}, found {found.get(key)}"
                raise ConfigError(f"average: array {key!r} of model {number}: {expected}")
    for key, spec in specs.items():
        kind = spec.dtype if is_float(spec.dtype) or is_complex(spec.dtype) else "float64"
        array = writer.begin(key, kind, spec.shape)
        for start, stop in _slices(first, spec):
            writer.put(array, _sum(models, key, start, stop).astype(numpy_dtype(kind)), start)
    writer.finish()
    return Group(where)


def _sum(models: Sequence[tuple[float, Model]], key: str, start: int, stop: int) -> Host:
    wide = sum_dtype(models[0][1].spec(key).dtype)
    total = np.zeros(stop - start, wide)
    for weight, model in models:
        total += weight * cast(model.read(key, start, stop), wide).reshape(-1)
    return total


def _specs(model: Model) -> dict[str, Spec]:
    return {key: model.spec(key) for key in model}


def _slices(model: Model, spec: Spec) -> Iterator[tuple[int, int]]:
    """Return where slices of an array begin and end: between rows, and where chunks of the first model do."""
    row, least = prod(spec.shape[1:]), max(1, SLICE // spec.itemsize)
    cuts = [cut for cut in model.cuts(spec.key) if 0 < cut < spec.size and cut % row == 0]
    start = 0
    for cut in cuts:
        if cut - start >= least:
            yield start, cut
            start = cut
    yield start, spec.size
