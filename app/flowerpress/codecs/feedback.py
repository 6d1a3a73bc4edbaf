"""Error feedback: what a lossy codec dropped is added to what it is given next.

Seide et al. 2014 (1-bit SGD) and Karimireddy et al. 2019 (arXiv:1901.09847) show why: with it, compressed training
converges like uncompressed training. A pure function: the residual goes in and comes out, and the caller keeps it.
"""

import numpy as np

from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.dtypes import Buffer, Host, numpy_dtype
from flowerpress.errors import ConfigError


def encode_with_feedback(pipeline: Pipeline, x: Host, residual: Host | None, spec: Spec) -> tuple[Buffer, Host]:
    """Encode ``x`` plus what was dropped before; return the bytes and what is dropped now.

    Parameters
    ----------
    pipeline : Pipeline
        What codes the array; with a reference in ``spec.base`` if it needs one.
    x : ndarray
        Floats of ``spec``.
    residual : ndarray or None
        What the last call returned, float32 (float64 for float64) of the shape of ``x``; None at first.
    spec : Spec
        Of ``x``.

    Returns
    -------
    bytes, ndarray
        The encoding, and the new residual. What the receiver decodes, plus the residual, is what was meant: ``x`` plus
        the old residual, up to one rounding in the dtype of ``x``, which the residual includes.

    Raises
    ------
    ConfigError
        If the residual has another shape, is not finite, or the pipeline cannot take the array.
    """
    if residual is not None and (residual.shape != spec.shape or not np.isfinite(residual).all()):
        raise ConfigError(f"residual of {spec.key!r}: expected finite values of shape {spec.shape}; start anew")
    meant = with_residual(x, residual)
    y = pipeline.encode(meant.astype(numpy_dtype(spec.dtype), copy=False), spec)
    return y, meant - pipeline.decode(y, spec).astype(meant.dtype)


def with_residual(x: Host, residual: Host | None) -> Host:
    """Return floats plus what was dropped of them before, a new array in float32; in float64 if they are."""
    meant = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    return meant if residual is None else np.add(meant, residual, out=meant)
