"""Latents of the images in HDF5 files (seed 002), under the names of ``nenya.latents_extraction``. ::

main ──► for each file: reading ──► partitions ──► encoded, batch by batch ──► HDF5 ──► writing, beside and renamed
              └── of another place: a copy that is checked, and goes afterwards
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowerpress.errors import ConfigError, FlowerpressError, RunError
from flowerpress.extraction.encoder import Encoder
from flowerpress.extraction.hdf5 import HDF5RGBDataset, Indices, build_loader
from flowerpress.extraction.inference import Latents, calc_latent
from flowerpress.extraction.options import Params, joined, model_path, option_preprocess
from flowerpress.extraction.probe import datasets
from flowerpress.extraction.storage import exists, is_remote, name_of, names, reading, writing
from flowerpress.extraction.written import Written

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader

__all__ = ["HDF5RGBDataset", "build_loader", "calc_latent", "main", "model_latents_extract", "prep"]

PARTITIONS = ("train", "valid")
_BATCH = 64  # images, where options do not say
_log = logging.getLogger("flowerpress")


def model_latents_extract(
    opt: Params,
    data_file: str | Path,
    model_path: str | Path,
    remove_module: bool = True,
    in_loader: "DataLoader[Any] | None" = None,
    partitions: Sequence[str] = PARTITIONS,
    allowed_indices: Indices = None,
    debug: bool = False,
    *,
    model: "nn.Module | None" = None,
) -> dict[str, Latents]:
    """Return the latents of the images in a file.

    Parameters
    ----------
    opt : Params
        ``ssl_model`` and ``feat_dim`` say what the encoder is, see `flowerpress.extraction.models.model_for`;
        ``batch_size_valid`` (64) and ``num_workers`` (1) how it is fed; ``mixed_precision`` whether it may compute in
        bfloat16; with ``cuda_use`` false it stays on the CPU.
    data_file : str or Path
        An HDF5 file: a path, or ``s3://bucket/key``.
    model_path : str or Path
        Its checkpoint, likewise; "" for a ``model`` that has its weights.
    remove_module : bool
        Whether names of weights lose the prefixes ``module.`` and ``encoder.module.``.
    in_loader : torch.utils.data.DataLoader, optional
        What to read batches from instead; ``partitions`` has to be the one that it reads.
    partitions : sequence of str
        Which datasets of the file; those that it has not are left out.
    allowed_indices : set, list or array of int, or a mapping of those by partition, optional
        Which images; see `flowerpress.extraction.hdf5.HDF5RGBDataset`.
    debug : bool
        Whether to stop after two batches of each partition.
    model : torch.nn.Module, optional
        The encoder, if not the one that ``opt`` names.

    Returns
    -------
    dict of str to ndarray
        float32, of shape (n, feat_dim), or (n, …) as the encoder makes it, by partition. In memory; `main` writes
        them as they come.

    Raises
    ------
    OSError
        If a file is not there, or cannot be had.
    ChunkError
        If one is damaged, or reading it hangs.
    ConfigError
        For an encoder, weights, images or indices that do not fit.
    """
    encoder = Encoder.of(opt, model_path, model=model, remove_module=remove_module)
    if in_loader is not None:
        name = _only(in_loader, partitions)
        return {name: _joined(list(encoder.over(in_loader, name, debug=debug)), opt)}
    found = {}
    with reading(data_file) as path:
        for name, loader in _loaders(opt, path, partitions, allowed_indices):
            found[name] = _joined(list(encoder.over(loader, f"{data_file}: {name}", debug=debug)), opt)
    return found


def prep(opt: Params) -> tuple[str, list[str]]:
    """Return what the checkpoint of an encoder is called, and the latent files that there are already.

    Parameters
    ----------
    opt : Params
        After `option_preprocess`: ``s3_outdir``, ``model_folder`` and ``latents_folder`` say where.

    Returns
    -------
    model_base : str
        The last part of the checkpoint's address.
    existing : list of str
        Names of files.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    OSError
        If a bucket does not say.
    """
    checkpoint = model_path(opt)
    if not exists(checkpoint):
        raise FileNotFoundError(f"{checkpoint}: expected the checkpoint of the encoder, found none")
    return name_of(checkpoint), names(joined(opt, "latents_folder"))


def main(opt_path: str | Path, pp_files: Sequence[str], clobber: bool = False, debug: bool = False) -> None:
    """Write the latents of files to ``<s3_outdir>/<latents_folder>``, ``_preproc`` in their names being ``_latents``.

    A file that cannot be done is left out, and the others are done.

    Parameters
    ----------
    opt_path : str or Path
        The option file.
    pp_files : sequence of str
        HDF5 files: paths, or ``s3://bucket/key``. They are only read.
    clobber : bool
        Whether to do files whose latents are there already, and replace these.
    debug : bool
        Whether to stop after two batches of each partition, and to write nothing.

    Raises
    ------
    OSError, ConfigError
        If options, checkpoint or bucket are not what they have to be, before anything is done.
    RunError
        At the end, if files could not be done: which, and why.
    """
    opt = option_preprocess(Params(opt_path))
    targets = _targets(opt, pp_files)
    _, existing = prep(opt)
    encoder = Encoder.of(opt, model_path(opt))
    failed: list[str] = []
    for source, target in targets.items():
        if name_of(target) in existing and not clobber:
            _log.info("%s is there already; clobber replaces it", target)
            continue
        try:
            _extract(opt, encoder, source, None if debug else target)
        except (FlowerpressError, OSError) as error:
            failed.append(str(error) if source in str(error) else f"{source}: {error}")
            _log.warning("left out: %s", failed[-1])
    if failed:
        raise RunError(f"{len(failed)} of {len(targets)} files could not be done:\n" + "\n".join(failed))


def latents_name(source: str) -> str:
    """Return what the latents of a file are called.

    >>> latents_name("s3://bucket/PreProc/a_preproc.h5"), latents_name("b.h5")
    ('a_latents.h5', 'b_latents.h5')
    """
    name = name_of(source)
    if "_preproc" in name:
        return name.replace("_preproc", "_latents")
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}_latents.{suffix}" if dot else f"{name}_latents"


def _targets(opt: Params, sources: Sequence[str]) -> dict[str, str]:
    """Return where the latents of each file go; ConfigError if two go to one place, or one onto what it is made of."""
    targets = {str(source): joined(opt, "latents_folder", latents_name(str(source))) for source in sources}
    places = {source: _place(source) for source in targets}
    for source, target in targets.items():
        others = [other for other in targets if other != source and targets[other] == target]
        if others or _place(target) in places.values():
            reason = f"as those of {others[0]}" if others else "which is one of the files themselves"
            raise ConfigError(f"the latents of {source} would go to {target}, {reason}; rename it")
    return targets


def _place(address: str) -> str:
    return address if is_remote(address) else str(Path(address).resolve())


def _extract(opt: Params, encoder: Encoder, source: str, target: str | None) -> None:
    """Write the latents of a file; without a target, only make some of them."""
    with reading(source) as path:
        loaders = _loaders(opt, path, PARTITIONS)
        batches = ((name, encoder.over(loader, f"{source}: {name}", debug=not target)) for name, loader in loaders)
        if target is None:
            for name, parts in batches:
                _log.info("%s: %s: %s", source, name, [part.shape for part in parts])
            return
        with writing(target) as unfinished, Written(unfinished) as file:
            for name, parts in batches:
                file.add(name, parts, empty=(0, getattr(opt, "feat_dim", None) or 0))
        _log.info("%s: %s", target, file.rows)


def _loaders(
    opt: Params, path: Path, partitions: Sequence[str], allowed_indices: Indices = None
) -> "Iterator[tuple[str, DataLoader[Any]]]":
    """Yield a loader for each partition that is there."""
    found = datasets(path)
    batch_size, workers = getattr(opt, "batch_size_valid", None) or _BATCH, getattr(opt, "num_workers", None)
    for name in partitions:
        if name not in found:
            _log.info("%s has no partition %r", path, name)
            continue
        dataset, loader = build_loader(path, name, batch_size, 1 if workers is None else workers, allowed_indices)
        yield name, loader
        dataset.close()


def _only(loader: "DataLoader[Any]", partitions: Sequence[str]) -> str:
    """Return the partition that a given loader reads."""
    known = getattr(loader.dataset, "partition", None)
    if known is not None and known in partitions:
        return str(known)
    if known is not None or len(partitions) != 1:
        reads = f"reads {known!r}" if known is not None else "does not say which partition it reads"
        raise ConfigError(f"in_loader {reads}: expected it as the only one of partitions, found {list(partitions)}")
    return partitions[0]


def _joined(parts: list[Latents], opt: Params) -> Latents:
    return np.concatenate(parts) if parts else np.empty((0, getattr(opt, "feat_dim", None) or 0), np.float32)
