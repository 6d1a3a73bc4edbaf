"""Other people's codecs behind one interface, for benchmarks that put them beside ours on the same arrays.

A peer that is not installed is left out of `available`, and `missing` says why and how to get it. All run on the CPU;
those built on torch use its threads, so call `torch.set_num_threads(1)` before comparing speeds, and set
OMP_NUM_THREADS=1 for those built on bitsandbytes.
"""

import logging
import math
import os
import pickle
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, TypeAlias
from unittest import mock

import ml_dtypes
import numpy as np
import torch

Bytes: TypeAlias = bytes | bytearray | memoryview
Shape: TypeAlias = tuple[int, ...]
Flatten: TypeAlias = Callable[[Shape], Shape]

FLOAT32, BOTH = ("float32",), ("float32", "bfloat16")
TOLERANCE = "absolute tolerance"
APPFL_CUTOFF = 1024  # values from which on APPFL's compressors lose anything: its examples' value


@dataclass(frozen=True)
class Peer:
    """A codec of one contiguous array of one axis or more, not empty; a peer without knob ignores its argument."""

    name: str
    encode: Callable[[np.ndarray, Any], Bytes]  # of (array, knob)
    decode: Callable[[Bytes, Shape, np.dtype], np.ndarray]  # of (bytes, shape, dtype)
    lossless: bool
    knob: str = ""  # what it means
    dtypes: tuple[str, ...] = FLOAT32


def available() -> dict[str, Peer]:
    """Return the peers that run here, by name."""
    return dict(_found()[0])


def missing() -> dict[str, str]:
    """Return why the others do not run here: the name of the library, and the reason."""
    return dict(_found()[1])


@cache
def _found() -> tuple[dict[str, Peer], dict[str, str]]:
    peers: dict[str, Peer] = {}
    reasons: dict[str, str] = {}
    for name, (make, packages) in MAKERS.items():
        try:
            with warnings.catch_warnings():  # some change the filters when they are imported
                warnings.simplefilter("ignore")
                peers |= {peer.name: peer for peer in make()}
        except Exception as error:  # native libraries fail in many ways
            hint = f"; pip install --no-deps {packages}" if isinstance(error, ModuleNotFoundError) else ""
            reasons[name] = f"{type(error).__name__}: {error}{hint}"
    return peers, reasons


# ---- views: how a peer that knows about axes is given an array ----


def flat(shape: Shape) -> Shape:
    return (math.prod(shape),)


def fours(shape: Shape) -> Shape:
    """Return rows of 4, or one axis if the values do not fill them."""
    size = math.prod(shape)
    return (size // 4, 4) if size % 4 == 0 else (size,)


def native(shape: Shape) -> Shape:
    """Return the first axis, and the others as one; one axis for vectors and scalars."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else flat(shape)


VIEWS: dict[str, Flatten] = {"1-D": flat, "rows of 4": fours, "2-D": native}


# ---- error-bounded ----


def _zfp() -> list[Peer]:
    import zfpy

    def peer(name: str, view: Flatten) -> Peer:
        return Peer(
            f"zfp {name}",
            lambda x, tolerance: zfpy.compress_numpy(x.reshape(view(x.shape)), tolerance=tolerance),
            lambda y, shape, dtype: zfpy.decompress_numpy(bytes(y)).reshape(shape),
            lossless=False,
            knob=TOLERANCE,
        )

    return [peer(name, view) for name, view in VIEWS.items()]


def _sz3() -> list[Peer]:
    from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

    def encode(x: np.ndarray, tolerance: float, algorithm: Any, view: Flatten) -> Bytes:
        config = szConfig()
        config.errorBoundMode = szErrorBoundMode.ABS
        config.absErrorBound = tolerance
        config.cmprAlgo = algorithm
        return sz.compress(x.reshape(view(x.shape)), config)[0].data

    def decode(y: Bytes, shape: Shape, dtype: np.dtype, view: Flatten) -> np.ndarray:
        return sz.decompress(np.frombuffer(y, np.uint8), np.dtype(dtype), view(shape))[0].reshape(shape)

    def peer(algorithm: str, name: str) -> Peer:
        coder = partial(encode, algorithm=getattr(szAlgorithm, algorithm), view=VIEWS[name])
        decoder = partial(decode, view=VIEWS[name])
        return Peer(f"SZ3 {algorithm} {name}", coder, decoder, lossless=False, knob=TOLERANCE)

    predicted = [peer(algorithm, name) for algorithm in ("INTERP_LORENZO", "LORENZO_REG") for name in ("1-D", "2-D")]
    return [*predicted, peer("NOPRED", "1-D")]


def _fpzip() -> list[Peer]:
    import fpzip

    def encode(x: np.ndarray, bits: int | None, lossless: bool) -> Bytes:
        return fpzip.compress(x.reshape(1, 1, *_two(x.shape)), precision=0 if lossless else bits)

    def decode(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        return fpzip.decompress(bytes(y)).reshape(shape)

    return [
        Peer("fpzip", partial(encode, lossless=True), decode, lossless=True),
        Peer("fpzip precision", partial(encode, lossless=False), decode, lossless=False, knob="bits kept of 32"),
    ]


def _two(shape: Shape) -> Shape:
    return (1, *native(shape))[-2:]


# ---- lossless, and quantised ----


def _blosc2() -> list[Peer]:
    import blosc2

    def encode(x: np.ndarray, bits: int | None, order: Any, level: int) -> Bytes:
        filters, meta = ([order], [0]) if bits is None else ([blosc2.Filter.TRUNC_PREC, order], [bits, 0])
        options = {"codec": blosc2.Codec.ZSTD, "clevel": level, "nthreads": 1, "typesize": x.itemsize}
        return blosc2.compress2(x.view(_plain(x.dtype)), filters=filters, filters_meta=meta, **options)

    def decode(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        return np.frombuffer(blosc2.decompress2(y, nthreads=1), dtype).reshape(shape)

    orders = {"shuffle": blosc2.Filter.SHUFFLE, "bitshuffle": blosc2.Filter.BITSHUFFLE}
    exact = [
        Peer(
            f"blosc2 {name}+zstd {level}",
            lambda x, _, order=order, level=level: encode(x, None, order, level),
            decode,
            lossless=True,
            dtypes=BOTH,
        )
        for name, order in orders.items()
        for level in (1, 5)
    ]
    cut = partial(encode, order=blosc2.Filter.SHUFFLE, level=1)
    knob = "bits kept of the 23 after the point"
    return [*exact, Peer("blosc2 TRUNC_PREC+shuffle+zstd 1", cut, decode, lossless=False, knob=knob)]


def _pcodec() -> list[Peer]:
    from pcodec import ChunkConfig, standalone

    config = ChunkConfig(compression_level=8)

    def encode(x: np.ndarray, _: object) -> Bytes:
        return standalone.simple_compress(x.view(_plain(x.dtype)).ravel(), config)

    def decode(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        return standalone.simple_decompress(bytes(y)).view(dtype).reshape(shape)

    def encode_indices(x: np.ndarray, tolerance: float) -> Bytes:
        indices = np.rint(x * np.float32(0.5 / tolerance))
        most = max(-float(indices.min()), float(indices.max()))
        integers = indices.astype(np.int16 if most < 2**15 else np.int32)
        return struct.pack("<d", 2 * tolerance) + standalone.simple_compress(integers.ravel(), config)

    def decode_indices(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        (step,) = struct.unpack_from("<d", y)
        indices = standalone.simple_decompress(bytes(y[8:]))
        return (indices * np.float32(step)).astype(dtype, copy=False).reshape(shape)

    return [
        Peer("pcodec 8", encode, decode, lossless=True, dtypes=BOTH),
        Peer("quantised, pcodec 8", encode_indices, decode_indices, lossless=False, knob=TOLERANCE),
    ]


def _zipnn() -> list[Peer]:
    import zipnn

    def coder(dtype: np.dtype) -> Any:
        return zipnn.ZipNN(bytearray_dtype=np.dtype(dtype).name, input_format="byte", threads=1)

    def encode(x: np.ndarray, _: object) -> Bytes:
        return coder(x.dtype).compress(x.tobytes())  # a copy: 0.5.4 reorders the bits of what it is given, in place

    def decode(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        return np.frombuffer(coder(dtype).decompress(bytes(y)), dtype).reshape(shape)

    return [Peer("ZipNN", encode, decode, lossless=True, dtypes=BOTH)]


def _plain(dtype: np.dtype) -> np.dtype:
    """Return a dtype of numpy's own, of the same width, for libraries that do not know bfloat16."""
    return np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype


# ---- federated and distributed learning ----


def _nvflare() -> list[Peer]:
    """Filters of NVFLARE. Those of 8 and 4 bits call `.cuda()`, which has no effect here: bitsandbytes has CPU code.

    NVFLARE sends the codes and their state in a message of its own; here they are pickled without numpy's headers.
    Its adaquant makes NaN of arrays that span less than 2.3e-4: the levels that it chooses come down to none.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a faster product that is not used here
    from nvflare.apis.fl_context import FLContext
    from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer
    from nvflare.app_opt.pt.quantization.quantizer import ModelQuantizer

    on_cpu = partial(mock.patch.object, torch.Tensor, "cuda", lambda self: self)

    def encode(x: np.ndarray, _: object, quantizer: Any) -> Bytes:
        with on_cpu():
            codes, state, dtypes = quantizer.quantization({"x": x}, FLContext())
        return pickle.dumps((_bare(codes["x"]), {key: _bare(v) for key, v in state["x"].items()}, dtypes["x"]))

    def decode(y: Bytes, shape: Shape, dtype: np.dtype, kind: str, dequantizer: Any) -> np.ndarray:
        codes, state, source = pickle.loads(y)
        state = {key: _dressed(v) for key, v in state.items()}
        with on_cpu():
            found = dequantizer.dequantization({"x": _dressed(codes)}, {"x": state}, kind, {"x": source}, FLContext())
        return found["x"].reshape(shape)

    return [
        Peer(
            f"NVFLARE {kind}",
            partial(encode, quantizer=ModelQuantizer(kind)),
            partial(decode, kind=kind, dequantizer=ModelDequantizer()),
            lossless=False,
        )
        for kind in ("float16", "blockwise8", "float4", "normfloat4", "adaquant")
    ]


def _bare(value: Any) -> Any:
    return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


def _dressed(value: Any) -> Any:
    if not isinstance(value, tuple) or len(value) != 3 or not isinstance(value[2], bytes):
        return value
    return np.frombuffer(bytearray(value[2]), value[0]).reshape(value[1])


def _appfl(name: str) -> list[Peer]:
    """One of APPFL's compressors, which take whole models; SZ2, SZ3 and SZx load libraries built in the home folder."""
    from appfl import compressor
    from omegaconf import OmegaConf

    def made(tolerance: float) -> Any:
        config = {"error_bounding_mode": "ABS", "error_bound": float(tolerance)}
        config |= {"lossless_compressor": "blosc", "param_cutoff": APPFL_CUTOFF}
        return getattr(compressor, f"{name}Compressor")(OmegaConf.create(config))

    def encode(x: np.ndarray, tolerance: float) -> Bytes:
        return made(tolerance).compress_model({"weight": torch.from_numpy(x)})

    def decode(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        model = SimpleNamespace(state_dict=lambda: {"weight": torch.empty(shape, device="meta")})
        return made(1.0).decompress_model(bytes(y), model)["weight"].numpy()

    encode(np.zeros(2 * APPFL_CUTOFF, np.float32), 1.0)  # OSError where the library is not
    return [Peer(f"APPFL {name}", encode, decode, lossless=False, knob=TOLERANCE)]


def _hivemind() -> list[Peer]:
    """Compression of hivemind's averaging, as the protobuf messages that its peers send."""
    os.environ.setdefault("QUANTIZATION_THREADS", "1")  # read when it is imported; 128 otherwise
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401 - blockwise quantisation needs it
    from hivemind import compression
    from hivemind.compression import quantization
    from hivemind.proto import runtime_pb2

    # hivemind 1.1.12 calls int() on arrays of one value, a TypeError since numpy 2.4
    reading = partial(mock.patch.object, quantization, "int", lambda x: int(np.asarray(x).item()), create=True)

    def encode(x: np.ndarray, _: object, coder: Any) -> Bytes:
        tensor = torch.from_numpy(x)
        return coder.compress(tensor, compression.CompressionInfo.from_tensor(tensor)).SerializeToString()

    def decode(y: Bytes, shape: Shape, dtype: np.dtype, coder: Any) -> np.ndarray:
        message = runtime_pb2.Tensor()
        message.ParseFromString(bytes(y))
        with reading():
            return coder.extract(message).numpy().reshape(shape)

    def peer(coder: Any) -> Peer:
        name = type(coder).__name__.removesuffix("Compression").removesuffix("Quantization")
        return Peer(f"hivemind {name}", partial(encode, coder=coder), partial(decode, coder=coder), lossless=False)

    floating = [compression.Float16Compression(), compression.ScaledFloat16Compression()]
    eight = [compression.Uniform8BitQuantization(), compression.Quantile8BitQuantization()]
    return [peer(coder) for coder in (*floating, *eight, compression.BlockwiseQuantization())]


def _powersgd() -> list[Peer]:
    """torch's hook in a group of one process: what it hands to all_reduce travels, P and Q, or a tensor left whole.

    One step from a random Q, without the error and the Q that training keeps from one step to the next.
    """
    from torch import distributed
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

    def encode(x: np.ndarray, rank: int) -> Bytes:
        if not distributed.is_initialized():
            distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        gradient = torch.from_numpy(x).clone().reshape(-1)  # the hook writes its result there
        bucket = SimpleNamespace(
            buffer=lambda: gradient,
            gradients=lambda: [gradient.view(x.shape or (1,))],
            index=lambda: 0,
            is_last=lambda: True,
        )
        state = PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=2, use_error_feedback=False)
        state.iter = 2
        powerSGD_hook(state, bucket).wait()
        p, q = state.p_memory_dict[0], state.q_memory_dict[0]
        return p.numpy().tobytes() + q.numpy().tobytes() if p.numel() else x.tobytes()

    def decode(y: Bytes, shape: Shape, dtype: np.dtype) -> np.ndarray:
        values = np.frombuffer(y, np.float32)
        rows, columns = _two(shape)
        if values.size == rows * columns:
            return values.reshape(shape)
        rank = values.size // (rows + columns)
        p, q = values[: rows * rank].reshape(rows, rank), values[rows * rank :].reshape(columns, rank)
        return (torch.from_numpy(p) @ torch.from_numpy(q).T).numpy().reshape(shape)

    return [Peer("PowerSGD", encode, decode, lossless=False, knob="rank")]


def _casts() -> list[Peer]:
    """What torch's fp16 and bf16 hooks send: a cast."""

    def encode(x: np.ndarray, _: object, to: torch.dtype) -> Bytes:
        return torch.from_numpy(x).to(to).view(torch.uint8).numpy().tobytes()

    def decode(y: Bytes, shape: Shape, dtype: np.dtype, to: torch.dtype) -> np.ndarray:
        return torch.frombuffer(bytearray(y), dtype=to).float().numpy().reshape(shape)

    def peer(name: str, to: torch.dtype) -> Peer:
        return Peer(f"torch {name}", partial(encode, to=to), partial(decode, to=to), lossless=False)

    return [peer("fp16", torch.float16), peer("bf16", torch.bfloat16)]


HIVEMIND = "base58 blake3 mmh3 py-multihash varint sortedcontainers prefetch_generator bitsandbytes"

MAKERS: dict[str, tuple[Callable[[], list[Peer]], str]] = {  # with what to install beside our own dependencies
    "zfp": (_zfp, "zfpy==1.0.1"),
    "SZ3": (_sz3, "pysz==1.1.0"),
    "fpzip": (_fpzip, "fpzip==1.2.5"),
    "blosc2": (_blosc2, "blosc2"),
    "pcodec": (_pcodec, "pcodec"),
    "ZipNN": (_zipnn, "zipnn==0.5.4"),
    "NVFLARE": (_nvflare, "nvflare==2.9.0 psutil bitsandbytes"),
    **{f"APPFL {n}": (partial(_appfl, n), "appfl==1.12.0 omegaconf zstd blosc") for n in ("ZFP", "SZ2", "SZ3", "SZx")},
    "hivemind": (_hivemind, f"hivemind==1.1.12 {HIVEMIND}"),
    "PowerSGD": (_powersgd, "torch"),
    "casts": (_casts, "torch"),
}
