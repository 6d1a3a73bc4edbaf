"""The run configuration of the app, checked: Flower itself checks neither types nor ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from flowerpress.codecs.policy import Policy
from flowerpress.errors import ConfigError


@dataclass(frozen=True)
class Config:
    """What ``[tool.flwr.app.config]`` documents, under the same names with underscores."""

    codec: str
    dataset: str
    partitioner: str
    dirichlet_alpha: float
    seed: int
    strategy: str
    num_server_rounds: int
    fraction_train: float
    fraction_evaluate: float
    local_epochs: int
    batch_size: int
    learning_rate: float
    torch_threads: int
    output_dir: str

    def __post_init__(self) -> None:
        if self.codec:
            Policy.parse(self.codec)
        for name, low in (("num_server_rounds", 1), ("local_epochs", 1), ("batch_size", 1), ("torch_threads", 0)):
            if getattr(self, name) < low:
                raise ConfigError(f"run config: expected {_kebab(name)} of {low} or more, found {getattr(self, name)}")
        for name in ("dirichlet_alpha", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"run config: expected {_kebab(name)} above 0, found {getattr(self, name)}")
        for name in ("fraction_train", "fraction_evaluate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"run config: expected {_kebab(name)} from 0 to 1, found {getattr(self, name)}")

    @classmethod
    def read(cls, run_config: Mapping[str, bool | float | int | str]) -> Self:
        """Return the configuration of a run; ConfigError for a missing key, a wrong type or a value out of range."""
        values: dict[str, bool | float | int | str] = {}
        for f in fields(cls):
            key = _kebab(f.name)
            if key not in run_config:
                raise ConfigError(f"run config: expected the key {key!r}; it has {sorted(run_config)}")
            value = run_config[key]
            kind = {"str": str, "int": int, "float": float}[str(f.type).removeprefix("<class '").removesuffix("'>")]
            if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
                raise ConfigError(f"run config: expected {key} of type {kind.__name__}, found {value!r}")
            values[f.name] = kind(value)
        return cls(**values)  # type: ignore[arg-type]


def _kebab(name: str) -> str:
    return name.replace("_", "-")
