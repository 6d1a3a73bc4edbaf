"""The better of several pipelines for a record: at the same rate, the one with the smaller squared error.

Low rank wins where few images make few directions, a quantiser where they make many; federated runs see both, and low
rank alone leaves for ever what lies outside of its directions.
"""

from dataclasses import dataclass
from typing import ClassVar

from flowerpress.codecs.base import Codec, Pipeline, Spec
from flowerpress.codecs.plan import Plan, Record, settle_each
from flowerpress.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Best(Plan):
    """The pipeline with the smallest squared error over the whole record; of equal ones the shortest, then the first.

    A plan among them that cannot be met is left out.

    Give all of them the same rate: ``best(budget(bits=0.1), budget(lowrank | entropy, bits=0.1))``.

    Parameters
    ----------
    pipelines : tuple of Pipeline
        Two or more; in text without a name.
    """

    pipelines: tuple[Pipeline, ...]
    name: ClassVar[str] = "best"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipelines", tuple(self.pipelines))
        if len(self.pipelines) < 2:
            raise ConfigError(f"best: expected two pipelines or more, found {len(self.pipelines)}")

    def refuses(self, spec: Spec) -> str:
        return next(filter(None, (pipeline.refuses(spec) for pipeline in self.pipelines)), "")

    def settle(self, record: Record) -> Codec:
        settled = settle_each(self.pipelines, record)
        return min(settled, key=lambda pipeline: (record.squared_error(pipeline), record.nbytes(pipeline)))
