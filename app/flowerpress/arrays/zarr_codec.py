"""Our pipelines as a codec of Zarr 3: a chunk of an array is coded like a chunk of a bundle, LATN header included.

Zarr finds it by its entry point wherever flowerpress is installed, so that ``zarr.open`` reads what it wrote. In the
metadata of an array it is the stage that turns arrays into bytes::

    {"name": "flowerpress", "configuration": {"pipeline": "planes | zstd"}}
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

from flowerpress.chunks.header import OWN, press_header, unpress_header
from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.text import parse
from flowerpress.errors import ChunkError, ConfigError

NAME = "flowerpress"


@dataclass(frozen=True)
class PressCodec(ArrayBytesCodec):
    """An array→bytes codec of Zarr 3.

    Parameters
    ----------
    pipeline : str
        The text of a pipeline that needs no reference, such as ``"zstd"`` or ``"quantize(step=1e-3) | entropy"``.

    Raises
    ------
    ConfigError
        For text that is no such pipeline.
    """

    pipeline: str = "zstd"
    is_fixed_size = False

    def __post_init__(self) -> None:
        if not self._stages.settled:
            raise ConfigError(f"{NAME}: expected a pipeline for single chunks, found a plan: {self.pipeline}")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec that metadata describe; ConfigError if they do not."""
        configuration = data.get("configuration", {})
        if data.get("name") != NAME or not isinstance(configuration, dict) or set(configuration) - {"pipeline"}:
            raise ConfigError(f"{NAME}: expected a pipeline in the metadata of an array, found {data}")
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as metadata have it."""
        return {"name": NAME, "configuration": {"pipeline": self.pipeline}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:  # noqa: ANN401 - zarr's
        """Raise ConfigError for an array that the pipeline cannot take."""
        if reason := self._stages.refuses(_spec(shape, dtype.to_native_dtype())):
            raise ConfigError(f"{NAME}: {self.pipeline} cannot take {dtype.to_native_dtype()}: {reason}")

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:  # noqa: ANN401
        """Refuse: it depends on the values."""
        raise NotImplementedError

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:  # noqa: ANN401 - buffers of zarr's
        return await asyncio.to_thread(self._encode, chunk_array, chunk_spec)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:  # noqa: ANN401
        return await asyncio.to_thread(self._decode, chunk_bytes, chunk_spec)

    def _encode(self, chunk: Any, chunk_spec: Any) -> Any:  # noqa: ANN401
        x = np.ascontiguousarray(chunk.as_numpy_array()).reshape(chunk_spec.shape)
        header = press_header(OWN, x.nbytes)
        body = self._stages.encode(x, _spec(x.shape, x.dtype))
        return chunk_spec.prototype.buffer.from_bytes(bytes([len(header)]) + header + bytes(body))

    def _decode(self, data: Any, chunk_spec: Any) -> Any:  # noqa: ANN401
        raw = data.to_bytes()
        spec = _spec(chunk_spec.shape, chunk_spec.dtype.to_native_dtype())
        end = 1 + (raw[0] if raw else 0)
        found = unpress_header(raw[1:end])
        if found != (OWN, spec.nbytes):
            raise ChunkError(f"{NAME}: expected a chunk of {spec.nbytes} bytes of {spec.dtype}, found {found}")
        x = self._stages.decode(memoryview(raw)[end:], spec)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(x)

    @property
    def _stages(self) -> Pipeline:
        return parse(self.pipeline)


def _spec(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Spec:
    return Spec("", dtype.newbyteorder("=").name, shape)


# under one name, however this file was imported: Zarr warns of a second implementation
register_codec(NAME, PressCodec, qualname="flowerpress.arrays.zarr_codec.PressCodec")
