"""The run configuration of the app, checked: Flower itself checks neither types nor ranges."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from flowerpress.codecs.policy import Policy
from flowerpress.errors import ConfigError

_LEAST = {
    "num_server_rounds": 1,
    "min_clients": 2,
    "local_epochs": 1,
    "batch_size": 1,
    "torch_threads": 0,
    "image_size": 0,
    "reply_bytes": 1,
}

_KINDS = {"str": str, "int": int, "float": float, "bool": bool}
CLASSIFY, EXTRACT, TRAIN_CODEC = "classify", "extract", "train-codec"
TASKS = (CLASSIFY, EXTRACT, TRAIN_CODEC)
SEED, WHOLE = "seed", "whole"  # how clients get the model that a run starts from


@dataclass(frozen=True)
class Config:
    """What ``[tool.flwr.app.config]`` documents, under the same names with underscores."""

    codec: str
    codec_down: str
    first: str
    error_feedback: bool
    dataset: str
    image_size: int
    model: str
    partitioner: str
    dirichlet_alpha: float
    seed: int
    strategy: str
    server_learning_rate: float
    num_server_rounds: int
    fraction_train: float
    fraction_evaluate: float
    min_clients: int
    local_epochs: int
    batch_size: int
    learning_rate: float
    torch_threads: int
    output_dir: str
    checkpoints: str
    resume: bool
    round_timeout: float
    task: str
    encoder: str
    encoder_model: str
    images: str
    image_partition: str
    latents: str
    reply_bytes: int
    latent_codec: str
    codec_model: str
    distortion_weight: float
    head_weight: float

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ConfigError(f"run config: expected a task among {', '.join(TASKS)}, found {self.task!r}")
        needed = ["encoder"] * bool(self.encoder or self.task != CLASSIFY)
        needed += ["output_dir"] * (self.task != CLASSIFY) + ["images"] * (self.task == EXTRACT)
        for name in needed:
            found = getattr(self, name)
            if not Path(found).is_absolute() and not (name == "images" and found.startswith("s3://")):
                raise ConfigError(f"run config: expected {_kebab(name)}, an absolute path, found {found!r}")
        if self.first not in (SEED, WHOLE):
            Policy.parse(self.first)
        for codec in filter(None, (self.codec, self.codec_down, self.latent_codec)):
            Policy.parse(codec)
        if self.codec_down and not self.codec:
            raise ConfigError("run config: expected a codec beside codec-down; stock Flower (codec='') has neither")
        if self.resume and self.task != EXTRACT and not self.checkpoints:
            raise ConfigError("run config: expected checkpoints beside resume=true: where the rounds are")
        if self.checkpoints and "://" not in self.checkpoints and not Path(self.checkpoints).is_absolute():
            raise ConfigError(f"run config: expected checkpoints to be an absolute path, found {self.checkpoints!r}")
        for name, low in _LEAST.items():
            if getattr(self, name) < low:
                raise ConfigError(f"run config: expected {_kebab(name)} of {low} or more, found {getattr(self, name)}")
        for name in ("dirichlet_alpha", "learning_rate", "distortion_weight", "round_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"run config: expected {_kebab(name)} above 0, found {getattr(self, name)}")
        for name in ("fraction_train", "fraction_evaluate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"run config: expected {_kebab(name)} from 0 to 1, found {getattr(self, name)}")

        if not 0 <= self.head_weight < math.inf:
            raise ConfigError(f"run config: expected head-weight of 0 or more, found {self.head_weight}")
        if not 0 <= self.server_learning_rate < math.inf:
            found = self.server_learning_rate
            raise ConfigError(f"run config: expected server-learning-rate of 0 (the default) or more, found {found}")

    @classmethod
    def read(cls, run_config: Mapping[str, bool | float | int | str]) -> Self:
        """Return the configuration of a run; ConfigError for a missing key, a wrong type or a value out of range."""
        values: dict[str, bool | float | int | str] = {}
        for f in fields(cls):
            key = _kebab(f.name)
            if key not in run_config:
                raise ConfigError(f"run config: expected the key {key!r}; it has {sorted(run_config)}")
            value = run_config[key]
            kind = _KINDS[str(f.type).removeprefix("<class '").removesuffix("'>")]
            if isinstance(value, bool) != (kind is bool) or not isinstance(
                value, (int, float) if kind is float else kind
            ):
                raise ConfigError(f"run config: expected {key} of type {kind.__name__}, found {value!r}")
            values[f.name] = kind(value)
        return cls(**values)  # type: ignore[arg-type]


def _kebab(name: str) -> str:
    return name.replace("_", "-")
