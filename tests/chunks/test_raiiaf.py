"""Both ways with raiiaf 1.1.0 itself: chunks, manifest records, files and lazy loaders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raiiaf.chunks.latent import raiiafLatent
from raiiaf.handlers.file_handler import raiiafFileHandler

from flowerpress import LatentChunks, LatentError
from flowerpress.chunks.raiiaf import read_records

RNG = np.random.default_rng(2)
OURS, THEIRS = LatentChunks(), raiiafLatent()


def latents(dtype: str = "float32") -> dict[str, np.ndarray]:
    return {
        "a": RNG.standard_normal((1, 4, 32, 32)).astype(dtype),
        "b": RNG.standard_normal((2, 3, 5, 7)).astype(dtype),
    }


def parts(chunk: bytes, record: dict[str, Any]) -> Any:
    if not record["compressed"]:
        return chunk
    return {"chunk": chunk, "len_header": record["len_header"], "len_data": record["len_data"]}


def save(path: Path, handler: raiiafFileHandler, arrays: dict[str, np.ndarray], **options: bool) -> None:
    settings = {"seed": 1, "steps": 1, "sampler": "s", "cfg_scale": 1.0, "scheduler": "s", "eta": 0.0, "guidance": "g"}
    handler.file_encoder(
        filename=str(path),
        latent=arrays,
        chunk_records=[],
        model_name="m",
        model_version="1",
        prompt="",
        tags=[],
        img_binary=None,  # type: ignore[arg-type]
        generation_settings=settings,
        hardware_info={"os": "Linux"},
        **options,
    )


# float16 and compressed, its default, is what raiiaf cannot write
@pytest.mark.parametrize(("compress", "half"), [(True, False), (False, True), (False, False)])
def test_their_chunks_and_records_are_read_here(compress: bool, half: bool) -> None:
    records: list[dict[str, Any]] = []
    chunks = THEIRS.latent_packer(latents(), 0, records, compress, half)
    for chunk, record in zip(chunks, records, strict=True):
        shape = tuple(record["extra"]["shape"])
        theirs = THEIRS.latent_parser(parts(chunk, record), shape, compress)
        assert OURS.latent_parser(parts(chunk, record), shape, compress).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_our_chunks_and_records_are_read_there(dtype: str, compress: bool, half: bool) -> None:
    arrays, records = latents(dtype), list[dict[str, Any]]()
    chunks = OURS.latent_packer(arrays, 0, records, compress, half)
    for chunk, record, x in zip(chunks, records, arrays.values(), strict=True):
        y = THEIRS.latent_parser(parts(chunk, record), x.shape, compress)
        assert y.tobytes() == (x.astype(np.float16) if half else x).tobytes()
        assert y.shape == x.shape


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_compressors_agree(tolerance: float) -> None:
    x = latents()["a"]
    for one, other in ((OURS, THEIRS), (THEIRS, OURS)):
        packed = one.latent_compressor(b"LATN", b"F32\0", x, tolerance)
        assert np.abs(other.latent_parser(packed, x.shape, True) - x).max() <= tolerance


def test_lazy_loaders_read_each_others_files(tmp_path: Path) -> None:
    path = tmp_path / "chunks"
    for packer, options in ((OURS, {}), (OURS, {"convert_float16": False}), (THEIRS, {"convert_float16": False})):
        records: list[dict[str, Any]] = []
        path.write_bytes(b"".join(packer.latent_packer(latents(), 0, records, **options)))
        ours = [load() for load in OURS.iter_lazy_latents(str(path), records)]
        theirs = [load() for load in THEIRS.iter_lazy_latents(str(path), records)]
        assert [x.tobytes() for x in ours] == [x.tobytes() for x in theirs]
        assert OURS.make_lazy_latent_loader(str(path), records[0])().shape == (1, 4, 32, 32)


@pytest.mark.parametrize(("compress", "half"), [(True, False), (False, True), (False, False)])
def test_their_files_are_read_here(tmp_path: Path, compress: bool, half: bool) -> None:
    path, arrays = tmp_path / "file.raiiaf", latents()
    save(path, raiiafFileHandler(), arrays, should_compress=compress, convert_float16=half)
    found = [load() for load in OURS.iter_lazy_latents(str(path), read_records(path))]
    assert [y.tobytes() for y in found] == [(x.astype(np.float16) if half else x).tobytes() for x in arrays.values()]


def test_our_chunks_in_their_files_are_read_there(tmp_path: Path) -> None:
    """With our packer inside, their encoder's defaults work, and their own decoder reads what it wrote."""
    path, arrays = tmp_path / "file.raiiaf", latents()
    handler = raiiafFileHandler()
    handler.latent = OURS
    save(path, handler, arrays)
    found = raiiafFileHandler().file_decoder(str(path))["chunks"]["latent"]
    assert [y.tobytes() for y in found] == [x.astype(np.float16).tobytes() for x in arrays.values()]


def test_files_that_are_not_raiiaf(tmp_path: Path) -> None:
    path = tmp_path / "file.raiiaf"
    save(path, raiiafFileHandler(), latents(), convert_float16=False)
    good = path.read_bytes()
    for damage in (
        b"",
        b"raiiaf",
        b"RIFF" + good[4:],
        good[:6] + b"\2" + good[7:],
        good[:-20],
        good[:9] + bytes(24) + good[33:],
    ):
        path.write_bytes(damage)
        with pytest.raises(LatentError):
            read_records(path)
    with pytest.raises(LatentError, match="cannot read"):
        read_records(tmp_path / "nothing")
