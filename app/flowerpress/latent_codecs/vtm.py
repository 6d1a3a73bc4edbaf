"""Features coded as a picture by the VVC test model, VTM (seed 003). ::

    features ── planes.py ──► plane.yuv ── EncoderAppStatic ──► bitstream, in "strings"
    h_hat   ◄── planes.py ─── plane.yuv ◄── DecoderAppStatic ─────────┘  with "pstate", which is plain data

VTM is no part of this project; https://vcgit.hhi.fraunhofer.de/jvet/VVCSoftware_VTM has it. Depths that its usual build
refuses need one with ``RExt__HIGH_BIT_DEPTH_SUPPORT``. Planes are those of arXiv:2412.04307.
"""

import os
import reprlib
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.errors import ChunkError, ConfigError, RunError
from flowerpress.latent_codecs import planes
from flowerpress.latent_codecs.programs import Address, beside, existing, run

_FILES = ("bin/EncoderAppStatic", "bin/DecoderAppStatic", "cfg/encoder_intra_vtm.cfg")
_CHROMA = {"400": (1, 1, 0), "420": (2, 2, 2), "422": (2, 1, 2), "444": (1, 1, 2)}  # columns, rows a sample; planes
_BANNER = 60.0  # seconds for it to appear
_REQUIRED = object()
_SLACK = 1 << 20  # bytes behind a picture that a decoder may write before it is stopped


class VtmCodec:
    """The encoder and the decoder of VTM, on files of one picture: rows of samples, of one byte up to 8 bits, else two.

    What is written appears when it is whole. ``version`` is what the banner says, ``"unknown"`` if it says none: other
    builds may word it otherwise, and code all the same. A program is stopped after ``encode_timeout`` or
    ``decode_timeout`` seconds, which may be set.

    Parameters
    ----------
    repo_dir : str or path
        Folder with bin/EncoderAppStatic, bin/DecoderAppStatic and cfg/encoder_intra_vtm.cfg.

    Raises
    ------
    ConfigError
        If one of them is missing or cannot be started; in methods, for arguments and files that do not fit.
    RunError
        If a program fails: its command, how it ended, and its last lines.
    """

    encode_timeout = 86_400.0  # it codes some thousand samples a second
    decode_timeout = 3_600.0

    def __init__(self, repo_dir: Address) -> None:
        if not isinstance(repo_dir, str | os.PathLike):
            raise ConfigError(f"expected the folder of VTM, found {repo_dir!r}")
        paths = [Path(repo_dir, name).absolute() for name in _FILES]
        if missing := [name for name, path in zip(_FILES, paths, strict=True) if not path.is_file()]:
            raise ConfigError(f"{repo_dir}: expected a folder of VTM, found no {', '.join(missing)}; build it there")
        self._encoder, self._decoder, self._settings = map(str, paths)
        banner = run([self._encoder], _BANNER, check=False)  # without arguments, it fails
        words = banner.partition(" Version ")[2].partition("\n")[0].split()
        self.version = words[0] if words else "unknown"

    @property
    def description(self) -> str:
        """``"VTM-"`` and the version."""
        return f"VTM-{self.version}"

    def compress(
        self,
        raw_path: Address,
        bin_path: Address,
        width: int,
        height: int,
        qp: int,
        bitdepth: int = 8,
        chroma_format: str = "400",
    ) -> Path:
        """Code the picture in ``raw_path``, of 8 to 16 bits, and return the path of the bitstream.

        ``qp`` is 0 to 63, more being coarser; ``chroma_format`` is "400", "420", "422" or "444".
        """
        qp, depth = whole("qp", qp, 0, 63), whole("bitdepth", bitdepth, 8, 16)
        size, raw = _picture_bytes(width, height, depth, chroma_format), existing(raw_path)
        if (found := raw.stat().st_size) != size:
            raise ConfigError(f"{raw}: expected {size} bytes, {width}x{height} at {depth} bits, found {found}")
        if raw.suffix == ".y4m":
            raise ConfigError(f"{raw}: expected samples only; VTM looks for a header in .y4m: rename it")
        arguments = [self._encoder, "-c", self._settings, "-i", str(raw), "-o", "", "-b"]
        options = ["-q", str(qp), "--ConformanceWindowMode=1", "-wdt", str(width), "-hgt", str(height), "-f", "1"]
        options += ["-fr", "1", f"--InternalBitDepth={depth}", f"--InputBitDepth={depth}"]
        options += [f"--InputChromaFormat={chroma_format}", f"--OutputBitDepth={depth}"]
        with beside(bin_path, raw) as partial:
            run([*arguments, str(partial), *options], self.encode_timeout)
        return Path(bin_path)

    def decompress(self, bin_path: Address, rec_path: Address, bit_depth: int = 8, *, size: int | None = None) -> Path:
        """Decode a bitstream to samples of 8 to 16 bits, and return the path of the picture.

        ``size``, if given, is how many bytes that must be: a decoder that goes on writing behind it is stopped.
        """
        stream, depth = existing(bin_path), whole("bit_depth", bit_depth, 8, 16)
        with beside(rec_path, stream, size) as partial:
            arguments = [self._decoder, "-b", str(stream), "-o", str(partial), "-d", str(depth)]
            run(arguments, self.decode_timeout, most=None if size is None else size + _SLACK)
        return Path(rec_path)


_Size = Annotated[int, msgspec.Meta(ge=1, le=planes.MOST)]


class _State(msgspec.Struct, frozen=True):
    """What a decoder must know besides the bitstream; ``bin_path`` is for people, and nobody opens it."""

    bin_path: str | None
    pack_shape: tuple[_Size, _Size]
    feat_shape: tuple[_Size, _Size, _Size, _Size]
    bit_depth: Annotated[int, msgspec.Meta(ge=8, le=16)]
    model_type: Literal["llama3", "dinov2", "sd3"]
    trun_low: planes.Bound
    trun_high: planes.Bound
    rounding: Literal["truncate", "nearest"]
    dtype: Literal["float16", "float32"]
    digest: str


class VtmFeatureCodec:
    """Features (crops, layers, tokens, channels), clipped, quantised, packed into one plane and coded by VTM.

    Parameters
    ----------
    cfg : mapping, or any object with attributes
        ``vtm_path``, ``trun_flag``, ``trun_low`` and ``trun_high`` (a number, or a sequence of one per layer),
        ``bit_depth`` (8 to 16) and ``model_type`` (``"llama3"``, ``"dinov2"`` or ``"sd3"``), see `planes`. Without
        ``trun_flag`` (false or 0), the bounds are the least and the largest value of the features. ``rounding`` may be
        ``"truncate"``, as published, or ``"nearest"``, see `planes.quantise`; ``bin_dir`` a folder in which bitstreams
        are kept, besides being returned.

    Raises
    ------
    ConfigError
        For options, features and a ``qp`` that cannot be coded, and where VTM is missing.
    RunError
        If the encoder fails.
    ChunkError
        If ``strings`` and ``pstate`` are not of one `compress`, or the decoder makes no such plane of them.

    Nothing is left in the temporary directory, however a call ends.
    """

    def __init__(self, cfg: object) -> None:
        self.cfg = cfg
        self._model = one_of("model_type", _option(cfg, "model_type"), planes.MODEL_TYPES)
        self._rounding = one_of("rounding", _option(cfg, "rounding", "truncate"), planes.ROUNDINGS)
        self._depth = whole("bit_depth", _option(cfg, "bit_depth"), 8, 16)
        self._bounds = _bounds(cfg)
        self._kept: str | None = _option(cfg, "bin_dir", None)
        if self._kept is not None and not os.path.isdir(self._kept):
            raise ConfigError(f"bin_dir: expected a folder that exists, found {self._kept!r}")
        self.vtm = VtmCodec(_option(cfg, "vtm_path"))

    def compress(self, org_feat: ArrayLike, qp: int) -> dict[str, Any]:
        """Return ``{"strings": {"vtm": [[bitstream]]}, "pstate": {...}}``: all that `decompress` needs, anywhere.

        ``pstate`` is plain data: ``pack_shape``, ``feat_shape``, ``bit_depth``, ``model_type``, ``trun_low``,
        ``trun_high``, ``rounding``, ``dtype`` of the result, the bitstream's ``digest``, and ``bin_path``, where it is
        kept: None without ``bin_dir``.
        """
        qp, x = whole("qp", qp, 0, 63), planes.as_features(org_feat)
        rows, columns = planes.plane_shape(x.shape, self._model)
        low, high = self._bounds or (float(x.min()), float(x.max()))
        dtype = "float16" if self._model == "sd3" else "float32"
        planes.check_bounds(low, high, x.shape[1], dtype)
        q = planes.quantise(x, low, high, self._depth, rounding=self._rounding)
        with tempfile.TemporaryDirectory(prefix="flowerpress-") as folder:
            raw, stream = Path(folder, "plane.yuv"), Path(folder, "plane.bin")
            planes.pack(q, self._model).tofile(raw)
            data = self.vtm.compress(raw, stream, columns, rows, qp, self._depth).read_bytes()
        known = {"pack_shape": (rows, columns), "feat_shape": x.shape, "bit_depth": self._depth, "dtype": dtype}
        known |= {"model_type": self._model, "trun_low": low, "trun_high": high, "rounding": self._rounding}
        known |= {"bin_path": self._keep(data), "digest": _digest(data)}
        return {"strings": {"vtm": [[data]]}, "pstate": known}

    def decompress(self, strings: object, pstate: object, **kwargs: object) -> dict[str, Any]:
        """Return ``{"h_hat": features}``, float32 (float16 for sd3), in their shape; of ``cfg``, only VTM matters."""
        state = _state(pstate)
        data = _bitstream(strings, state.digest)
        samples = planes.sample_type(state.bit_depth)
        size = state.pack_shape[0] * state.pack_shape[1] * samples.itemsize
        with tempfile.TemporaryDirectory(prefix="flowerpress-") as folder:
            stream, rec = Path(folder, "plane.bin"), Path(folder, "plane.yuv")
            stream.write_bytes(data)
            try:
                self.vtm.decompress(stream, rec, state.bit_depth, size=size)
            except RunError as error:
                raise ChunkError(f"strings: expected a plane of {state.pack_shape}: {error}") from error
            plane = np.fromfile(rec, samples).reshape(state.pack_shape)
        if int(plane.max()) >> state.bit_depth:
            raise ChunkError(f"strings: expected samples of {state.bit_depth} bits, found {plane.max()}")
        q = planes.unpack(plane, state.feat_shape, state.model_type)
        return {"h_hat": planes.dequantise(q, state.trun_low, state.trun_high, state.bit_depth, dtype=state.dtype)}

    def forward_test(self, org_feat: ArrayLike, qp: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `compress` and `decompress` return, and ``encoding_time`` and ``decoding_time`` in seconds."""
        start = perf_counter()
        coded = self.compress(org_feat, qp)
        middle = perf_counter()
        decoded = self.decompress(**coded)
        end = perf_counter()
        return coded | {"encoding_time": middle - start}, decoded | {"decoding_time": end - middle}

    def _keep(self, data: bytes) -> str | None:
        """Write a bitstream to the folder of the caller's, if any, under a name of its own."""
        if self._kept is None:
            return None
        path = Path(self._kept, f"{_digest(data)}.bin").absolute()
        with beside(path) as partial:
            partial.write_bytes(data)
        return str(path)


def whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number as an int; ConfigError unless it is one from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r}")
    return int(value)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return a choice; ConfigError if it is none."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name}: expected {', '.join(choices)}, found {value!r}")
    return value


def _option(cfg: object, name: str, default: object = _REQUIRED) -> Any:  # noqa: ANN401 - whoever asks checks
    """Return an option of a mapping or an object; ConfigError if it is missing and there is no default."""
    value = cfg.get(name, default) if isinstance(cfg, Mapping) else getattr(cfg, name, default)
    if value is _REQUIRED:
        raise ConfigError(f"cfg: expected {name}, found none in {type(cfg).__name__}")
    return value


def _bounds(cfg: object) -> tuple[planes.Bound, planes.Bound] | None:
    """Return the bounds in the options; None if the features are to say."""
    flag = _option(cfg, "trun_flag")
    if not isinstance(flag, int | np.integer | np.bool_) or flag not in (0, 1):
        raise ConfigError(f"trun_flag: expected true or false, found {flag!r}")
    if not flag:
        return None
    low, high = (planes.as_bound(name, _option(cfg, name)) for name in ("trun_low", "trun_high"))
    planes.check_bounds(low, high, max(np.size(low), np.size(high)))
    if not np.less(low, high).all():
        raise ConfigError(f"expected trun_low below trun_high, found {low} and {high}")
    return low, high


def _state(pstate: object) -> _State:
    """Return what a peer says of a plane; ChunkError unless all of it is there and fits."""
    try:
        state = msgspec.convert(pstate, _State)
        shape = planes.plane_shape(state.feat_shape, state.model_type)
        planes.check_bounds(state.trun_low, state.trun_high, state.feat_shape[1], state.dtype)
    except (msgspec.MsgspecError, ConfigError) as error:
        raise ChunkError(f"pstate: {error}") from error
    if state.pack_shape != shape:
        raise ChunkError(f"pstate: expected pack_shape {shape} for {state.feat_shape}, found {state.pack_shape}")
    return state


def _bitstream(strings: object, digest: str) -> bytes:
    """Return the one bitstream; ChunkError if there is another number, or it is another's."""
    match strings:
        case {"vtm": [[bytes(data)]]}:
            if _digest(data) != digest:
                raise ChunkError(f"strings: expected a bitstream of digest {digest:.40}, found {_digest(data)}")
            return data
    raise ChunkError("strings: expected {'vtm': [[bytes]]}, as compress returns, found " + reprlib.repr(strings))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _picture_bytes(width: object, height: object, depth: int, chroma_format: str) -> int:
    """Return how long a file of one picture is; ConfigError for sizes that chroma does not divide."""
    width, height = whole("width", width, 1, planes.MOST), whole("height", height, 1, planes.MOST)
    across, down, chroma = _CHROMA[one_of("chroma_format", chroma_format, tuple(_CHROMA))]
    if width % across or height % down:
        raise ConfigError(f"chroma {chroma_format}: expected multiples of {across}x{down}, found {width}x{height}")
    samples = width * height + chroma * (width // across) * (height // down)
    return samples * planes.sample_type(depth).itemsize
