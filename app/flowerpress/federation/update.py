"""What a strategy sees of a reply: the node's model if it is exact, else the server's plus the node's update. ::

    server:  W ── down, lossy ──► R on both ends          W: the strategy's model, R: what a node decoded from it
    node:    R ── training ──► R + Δ ── up, lossy ──► server decodes R + Δ', and shows W + Δ'

What the downlink dropped, R - W, is no part of what the node learnt: it is in the next difference to that node by
itself, and must not come back through the strategy as well. Arrays that are positive throughout at both ends, such as
variances, stay positive: values that the sum would take below 0 shrink in ratio instead.
"""

from collections.abc import Mapping

import numpy as np

from flowerpress.chunks.bundle import Bundle, Source
from flowerpress.codecs.base import Spec, check_base
from flowerpress.codecs.dtypes import ArrayLike, Host, cast, is_float, numpy_dtype, smallest, to_host


class Update(Bundle):
    """The bundle of a reply, whose inexact float arrays are read as ``model + (decoded - reference)``.

    Parameters
    ----------
    source : Source
        Where the bundle is.
    reference : mapping of str to ndarray
        What the node was sent, as it decoded it.
    model : mapping of str to ndarray, optional
        What the server meant to send; by default the same, and then nothing is added.
    """

    def __init__(
        self, source: Source, reference: Mapping[str, ArrayLike], model: Mapping[str, ArrayLike] | None = None
    ) -> None:
        super().__init__(source, bases=reference)
        self._model = model

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Host:
        """Return an array, or a part of it, as `Bundle.read` does."""
        x, spec = super().read(key, start, stop), self.spec(key)
        if self._model is None or self.exact(key) or not is_float(spec.dtype):
            return x
        ends = [to_host(m[key]) for m in (self._model, self.bases) if key in m]
        if len(ends) < 2 or any(check_base(Spec(key, spec.dtype, spec.shape, end)) for end in ends):
            return x
        whole = slice(*slice(start, stop).indices(spec.size))
        wide = "float64" if spec.dtype == "float64" else "float32"
        model, reference = (cast(end.reshape(-1)[whole], wide).reshape(x.shape) for end in ends)
        moved = cast(x, wide) - reference
        moved += model
        gone = moved < smallest(spec.dtype)
        if gone.any() and all((end > 0).all() for end in (model, reference, *ends)):
            with np.errstate(over="ignore"):
                shrunk = np.maximum(model * (cast(x, wide) / reference), smallest(spec.dtype))
            np.copyto(moved, shrunk, where=gone & (x > 0))
        return np.asarray(moved.astype(numpy_dtype(spec.dtype), copy=False))

    def read_all(self, workers: int | None = None) -> dict[str, Host]:
        """Return all arrays; one after the other where the model is added."""
        return super().read_all(workers) if self._model is None else {key: self.read(key) for key in self}
