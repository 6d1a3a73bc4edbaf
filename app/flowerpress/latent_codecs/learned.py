"""A learned codec as a stage of a pipeline: features to bytes by networks that were trained on such features. ::

    learned(model='vit-union', weights='codec.fpb')             tokens (b, L, C)
    learned(model='scale-hyperprior', weights='1f0c…')          planes (…, h, w)

All images of an array are in one stream, behind a checksum: what was coded with other weights, or has been changed, is
an error. Weights are not in the bytes, which name them by their digest; the path of a file becomes the digest of what
is in it when a bundle is packed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import xxhash

from flowerpress.codecs.base import ArrayToBytes, Pipeline, Spec, check_float, check_some, is_number
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, cast, is_torch, numpy_dtype, to_tensor
from flowerpress.codecs.policy import Policy, Rule
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.weights import MODELS, VIT, frame_of, installed

if TYPE_CHECKING:
    from flowerpress.codecs.plan import Record

_BATCH = 64  # images that the networks see at once: the order of symbols depends on it, so it never changes
_CHECKSUM = 8  # bytes


@dataclass(frozen=True, kw_only=True)
class Learned(ArrayToBytes):
    """Features by a codec of `flowerpress.latent_codecs`, within no bound but what its training aimed at.

    Parameters
    ----------
    model : str
        ``"vit-union"`` for tokens of shape (b, L, C), ``"scale-hyperprior"`` for planes, which are the last two axes.
    weights : str
        The digest of weights that are on this machine, or the path of a file of them; see
        `flowerpress.latent_codecs.weights`.
    grid : list of int, optional
        Rows and columns of the tokens; a square by default.
    bounds : list of float, optional
        What becomes 0 and 1 of planes, and is cut off beyond; by default the least and the largest value of the array.
    qp : int, optional
        The rate of a codec of tokens that has several.
    """

    model: str = VIT
    weights: str = ""
    grid: list[int] | None = None
    bounds: list[float] | None = None
    qp: int | None = None
    name: ClassVar[str] = "learned"

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(f"learned: expected a model among {', '.join(MODELS)}, found {self.model!r}")
        if not isinstance(self.weights, str) or not self.weights:
            raise ConfigError(f"learned: expected the digest of weights, or a file of them, found {self.weights!r}")
        grid, bounds = self.grid, self.bounds
        if grid is not None and not (_is_pair(grid) and all(type(n) is int and n > 0 for n in grid)):
            raise ConfigError(f"learned: expected a grid of two whole numbers above 0, found {grid!r}")
        if self.qp is not None and (type(self.qp) is not int or self.qp < 0):
            raise ConfigError(f"learned: expected a qp of 0 or more, found {self.qp!r}")
        if bounds is not None and not (_is_pair(bounds) and -1e30 < bounds[0] < bounds[1] < 1e30):
            raise ConfigError(f"learned: expected two bounds that rise, found {bounds!r}")

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def lossless(self) -> bool:
        return False

    @property
    def reproducible(self) -> bool:
        return False  # latents are; what is made of them is float32

    @property
    def elementwise(self) -> bool:
        return False

    @property
    def settled(self) -> bool:
        return False

    def settle(self, record: "Record") -> "Learned":
        """Return the codec whose weights are named by their digest; ConfigError if they are not on this machine."""
        del record
        return self.by_digest()

    def by_digest(self) -> "Learned":
        """Return the codec whose weights are named by their digest; ConfigError if they are not on this machine."""
        digest = installed(self.weights)
        frame_of(self.model, digest, "cpu")
        return replace(self, weights=digest)

    def refuses(self, spec: Spec) -> str:
        axes = len(spec.shape)
        fits = axes == 3 if self.model == VIT else axes >= 2
        wrong = "" if fits else f"{self.model} codes {'tokens (b, L, C)' if self.model == VIT else 'planes (…, h, w)'}"
        return check_float(spec) or check_some(spec) or wrong

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        """Turn features into one stream; ConfigError for NaN and infinities, and if the weights are of other shapes."""
        from flowerpress.latent_codecs.coding import Encoding
        from flowerpress.latent_codecs.streams import Together

        features = cast(x if is_torch(x) else to_tensor(np.require(x, requirements="W")), "float32")
        frame = frame_of(self.model, installed(self.weights), str(features.device))
        images, side = frame.images(features, self)
        stream, checksums = Together(), list[str]()
        for batch in images.split(_batch(frame.most(spec.shape))):  # type: ignore[no-untyped-call]
            coder = Encoding(stream, exact=True)
            frame.encode(coder, batch, self)
            checksums += coder.checksums()
        return _joined(checksums) + side + stream.finish()

    def decode(self, y: Buffer, spec: Spec) -> Host:
        """Return features; ChunkError for a stream that is damaged, or of weights that are not on this machine."""
        from flowerpress.latent_codecs.coding import Decoding
        from flowerpress.latent_codecs.streams import FromTogether

        try:
            frame = frame_of(self.model, installed(self.weights), "cpu")
            side, body = frame.sides(y[_CHECKSUM:])
            stream, parts, checksums = FromTogether(body), list[Host](), list[str]()
            for items in _batches(frame.count(spec.shape), _batch(frame.most(spec.shape))):
                coder = Decoding(stream, exact=True)
                parts.append(frame.decode(coder, items, spec.shape, self))
                checksums += coder.checksums()
        except ConfigError as error:
            raise ChunkError(f"array {spec.key!r}: {error}") from error
        stream.finish()
        if _joined(checksums) != bytes(y[:_CHECKSUM]):
            raise ChunkError(f"array {spec.key!r}: the checksum differs: the stream is damaged, or of other weights")
        with np.errstate(over="ignore"):
            found = frame.features(np.concatenate(parts), side).reshape(spec.shape)
            return found.astype(numpy_dtype(spec.dtype), copy=False)


def by_digest(policy: Policy) -> tuple[Policy, list[str]]:
    """Return a policy that names all weights by their digests, so that it can travel, and these.

    Raises ConfigError if any weights are not on this machine.
    """
    rules, digests = list[Rule](), list[str]()
    for rule in policy.rules:
        stages = tuple(stage.by_digest() if isinstance(stage, Learned) else stage for stage in rule.pipeline.stages)
        rules.append(replace(rule, pipeline=Pipeline(stages)))
        digests += [stage.weights for stage in stages if isinstance(stage, Learned)]
    return Policy(tuple(rules)), digests


def _batch(most: int) -> int:
    return max(1, min(_BATCH, most))


def _batches(items: int, batch: int) -> list[int]:
    return [min(batch, items - start) for start in range(0, items, batch)]


def _joined(checksums: Sequence[str]) -> bytes:
    return xxhash.xxh3_64_digest("".join(checksums).encode())


def _is_pair(x: object) -> bool:
    return isinstance(x, list) and len(x) == 2 and all(map(is_number, x))
