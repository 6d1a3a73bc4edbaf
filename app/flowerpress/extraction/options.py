"""The options of an encoder: its architecture, how it was trained, and where its files are (seed 002's ``Params``).

The layout is that of Nenya's option files. What is read here::

    ssl_model           architecture: "resnet50", "package.module:factory"; see `flowerpress.extraction.models`
    feat_dim            length of a latent vector
    batch_size_valid    images per batch
    num_workers         processes that read
    cuda_use            false to stay on the CPU
    mixed_precision     true to compute in bfloat16 where the model may
    s3_outdir           folder or s3:// address of models and latents
    model_root, ssl_method, learning_rate, weight_decay, batch_size_train, temp, trial, cosine, warm
                        name their folders: models/<model_root>/<name>, latents/<model_root>/<name>
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowerpress.errors import ConfigError

MODELS = "FLOWERPRESS_MODELS"  # environment variable: a folder of option files, one <name>.json per encoder
_UNSET = (
    "nenya_data",
    "data_folder",
    "lr_decay_epochs",
    "model_name",
    "cosine",
    "warm",
    "warmup_from",
    "warmup_to",
    "warmup_epochs",
    "model_folder",
    "latents_folder",
    "cuda_use",
    "valid_freq",
    "save_freq",
)
_NAMING = (
    "model_root",
    "ssl_method",
    "ssl_model",
    "learning_rate",
    "weight_decay",
    "batch_size_train",
    "temp",
    "trial",
)
_TEXTS = ("ssl_model", "model_path")
_COUNTS = ("feat_dim", "batch_size_train", "batch_size_valid", "num_workers")
_WARM_ABOVE = 256  # images per batch in training
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "v5": {  # Nenya's encoder of MODIS sea surface temperatures, 64x64 pixels
        "ssl_method": "SimCLR",
        "ssl_model": "resnet50",
        "feat_dim": 256,
        "model_root": "MODIS_R2019_v4",
        "s3_outdir": "s3://modis-l2/SSL/",
        "learning_rate": 0.05,
        "lr_decay_epochs": "700, 800, 900",
        "lr_decay_rate": 0.1,
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "epochs": 50,
        "batch_size_train": 256,
        "batch_size_valid": 128,
        "num_workers": 16,
        "temp": 0.07,
        "cosine": True,
        "warm": True,
        "syncBN": False,
        "trial": 5,
    },
}


class Params:
    """Options as attributes, read from a JSON file.

    Those that every file may lack are None then: ``nenya_data``, ``data_folder``, ``lr_decay_epochs``, ``model_name``,
    ``cosine``, ``warm``, ``warmup_from``, ``warmup_to``, ``warmup_epochs``, ``model_folder``, ``latents_folder``,
    ``cuda_use``, ``valid_freq`` and ``save_freq``. What else a file has is kept as it is.

    Parameters
    ----------
    json_path : str or Path
        The file.

    Raises
    ------
    OSError
        If it cannot be read.
    ConfigError
        If it does not hold options.
    """

    model_name: str | None
    model_folder: str | None
    latents_folder: str | None
    lr_decay_epochs: str | list[int] | None
    warm: bool | None

    def __init__(self, json_path: str | Path) -> None:
        self.__dict__.update(dict.fromkeys(_UNSET))
        self.update(json_path)

    def update(self, json_path: str | Path) -> None:
        """Set the options that another file has; the others stay. Raises as the constructor does."""
        self._set(json_path, Path(json_path).read_bytes())

    def save(self, json_path: str | Path) -> None:
        """Write all options to a JSON file, whole or not at all."""
        path = Path(json_path)
        unfinished = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            unfinished.write_text(json.dumps(self.dict, indent=4) + "\n")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    @property
    def dict(self) -> dict[str, Any]:
        """The options by name: the very ones, so that what is set in it is set here."""
        return self.__dict__

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - options are of any kind
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"the options have no {name!r}; they have {', '.join(sorted(self.dict))}")

    def _set(self, source: object, text: bytes) -> None:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{source}: expected options as JSON: {error}") from error
        if not isinstance(found, dict):
            raise ConfigError(f"{source}: expected options by name, found {type(found).__name__}")
        if taken := {name for name in found if hasattr(Params, name)}:
            raise ConfigError(f"{source}: options cannot be called {', '.join(sorted(taken))}")
        self.__dict__.update(found)


def option_preprocess(opt: Params) -> Params:
    """Fill in what follows from the other options, in place: ``model_name``, the folders, warm-up; return them.

    Folders that are given stay; ``lr_decay_epochs`` becomes a list of integers. It may be called again.

    Raises
    ------
    ConfigError
        If an option that names the folders is missing, ``nenya_data`` is set and ``data_folder`` is not, or an option
        has the wrong kind of value, such as a text for a number.
    """
    _check(opt)
    if getattr(opt, "nenya_data", None) and getattr(opt, "data_folder", None) is None:
        raise ConfigError("options: expected data_folder beside nenya_data=true")
    if isinstance(epochs := getattr(opt, "lr_decay_epochs", None), str):
        opt.lr_decay_epochs = _whole_numbers(epochs)
    if all(getattr(opt, name, None) is not None for name in ("model_folder", "latents_folder")):
        return opt
    if missing := [name for name in _NAMING if getattr(opt, name, None) is None]:
        raise ConfigError(f"options: expected {', '.join(missing)}, or model_folder and latents_folder")
    opt.warm = bool(getattr(opt, "warm", None)) or opt.batch_size_train > _WARM_ABOVE
    opt.model_name = (
        f"{opt.ssl_method}_{opt.ssl_model}_lr_{opt.learning_rate}_decay_{opt.weight_decay}"
        f"_bsz_{opt.batch_size_train}_temp_{opt.temp}_trial_{opt.trial}"
        f"{'_cosine' if getattr(opt, 'cosine', None) else ''}{'_warm' if opt.warm else ''}"
    )
    opt.model_folder = f"models/{opt.model_root}/{opt.model_name}"
    opt.latents_folder = f"latents/{opt.model_root}/{opt.model_name}"
    return opt


def _check(opt: Params) -> None:
    """Raise ConfigError for options of the wrong kind; those that are missing or null have their defaults."""
    for names, fits, wanted in ((_TEXTS, _is_text, "a text"), (_COUNTS, _is_count, "a whole number, 0 or more")):
        for name in names:
            if (value := getattr(opt, name, None)) is not None and not fits(value):
                raise ConfigError(f"options: expected {name}, {wanted}, found {value!r}")
    module, colon, function = (getattr(opt, "ssl_model", None) or "").partition(":")
    if colon and not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ConfigError(f"options: expected ssl_model as 'package.module:factory', found {opt.ssl_model!r}")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0  # true is no number


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"options: expected lr_decay_epochs, such as '700, 800, 900', found {text!r}") from error


def load_opt(name: str) -> tuple[Params, str]:
    """Return the options of an encoder, and where its checkpoint is.

    Parameters
    ----------
    name : str
        ``"v5"`` (Nenya's for MODIS), the name of a file ``<name>.json`` in the folder ``$FLOWERPRESS_MODELS``, which
        goes first, or the path of an option file.

    Returns
    -------
    opt : Params
        After `option_preprocess`.
    model_path : str
        ``<s3_outdir>/<model_folder>/last.pth``, or what the option ``model_path`` says.

    Raises
    ------
    OSError
        For a name that means no encoder.
    ConfigError
        For an option file that is no such thing.
    """
    opt = option_preprocess(_options_of(name))
    return opt, model_path(opt)


def model_path(opt: Params) -> str:
    """Return where the checkpoint of an encoder is."""
    return getattr(opt, "model_path", None) or joined(opt, "model_folder", "last.pth")


def joined(opt: Params, folder: str, *names: str) -> str:
    """Return the address of a folder of the options, or of a file in it; ConfigError if they do not say where it is."""
    for option in ("s3_outdir", folder):
        if not isinstance(getattr(opt, option, None), str):
            raise ConfigError(f"options: expected {option}, a text, found {getattr(opt, option, None)!r}")
    return "/".join([opt.s3_outdir.rstrip("/"), getattr(opt, folder).strip("/"), *names])


def _options_of(name: str) -> Params:
    folder = os.environ.get(MODELS)
    files = {path.stem: path for path in sorted(Path(folder).glob("*.json"))} if folder else {}
    if name in files:
        return Params(files[name])
    if name in _PUBLISHED:
        opt = Params.__new__(Params)
        opt.__dict__.update(dict.fromkeys(_UNSET), **_PUBLISHED[name])
        return opt
    if name.endswith(".json") and Path(name).is_file():
        return Params(name)
    known = ", ".join(sorted({*files, *_PUBLISHED}))
    raise OSError(f"expected an encoder among {known}, or an option file, found {name!r}; ${MODELS} is their folder")
