"""Plans, settled: what stands for them in each pipeline of a record, found by encoding the record.

Plans that decide for each array by itself come first, then those that decide for all arrays of their pipeline; what a
plan tried last, and chose, is not encoded again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from flowerpress.chunks.encode import Encoded, Job
from flowerpress.codecs.base import ArrayToArray, Codec, Pipeline
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.codecs.plan import Plan
from flowerpress.errors import ConfigError

Measure = Callable[[list[Encoded]], int]


def settle(job: Job, pipelines: Mapping[int, Pipeline], bundle_bytes: Measure) -> list[Encoded]:
    """Return the chunks of the arrays with these numbers, whose pipelines may hold plans.

    Plans over the record see the bytes of the whole bundle, less the arrays of other such plans.
    """
    settled, groups = dict[int, Pipeline](), dict[Pipeline, list[int]]()
    for i, pipeline in pipelines.items():
        if pipeline.settled:
            settled[i] = pipeline
        elif all(stage.settled or (isinstance(stage, Plan) and stage.each) for stage in pipeline.stages):
            settled[i] = pipeline.settle(_Record(job, (i,), (i,), _payload_bytes))
        else:
            groups.setdefault(pipeline, []).append(i)
    exact = job.encode(settled)
    chunks = list(exact)
    for pipeline, members in groups.items():
        others = {i for group in groups.values() for i in group} - set(members)
        counted = tuple(i for i in range(len(job.specs)) if i not in others)
        record = _Record(job, tuple(members), counted, lambda found: bundle_bytes([*exact, *found]))
        chunks += record.encode(pipeline.settle(record))
    return chunks


def _payload_bytes(chunks: list[Encoded]) -> int:
    return sum(len(buffer) for chunk in chunks for buffer in chunk.payload)


@dataclass(frozen=True)
class _Record:
    """What a plan sees: arrays ``members`` behind the stages ``before``, in a bundle of the arrays ``counted``."""

    job: Job
    members: tuple[int, ...]
    counted: tuple[int, ...]
    measure: Measure
    before: tuple[Codec, ...] = ()
    behind: tuple[Codec, ...] = ()
    encoded: dict[Pipeline, list[Encoded]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(self.job.specs[i].size for i in self.counted)

    @property
    def raw_bytes(self) -> int:
        return sum(self.job.specs[i].nbytes for i in self.counted)

    @property
    def name(self) -> str:
        spec = self.job.specs[self.members[0]]
        return f"{spec.key} {spec.dtype}{list(spec.shape)}" if len(self.members) == 1 else f"{len(self.members)} arrays"

    def arrays(self) -> Iterator[ArrayLike]:
        for i in self.members:
            spec = self.job.specs[i]
            x = self.job.arrays[spec.key]
            try:
                for stage in self.before:
                    if isinstance(stage, ArrayToArray):
                        x, spec = stage.encode(x, spec), stage.after(spec)
            except ConfigError:  # of values that the stage cannot take: they will be coded exactly
                continue
            yield x

    def at(self, before: tuple[Codec, ...], behind: tuple[Codec, ...]) -> "_Record":
        return replace(self, before=self.before + before, behind=behind + self.behind)

    def takes(self, codec: Codec) -> bool:
        pipeline = self._pipeline(codec)
        return not any(pipeline.refuses(self.job.specs[i]) for i in self.members)

    def nbytes(self, codec: Codec) -> int:
        return self.measure(self.encode(codec))

    def squared_error(self, codec: Codec, unit: float = 1.0) -> float:
        return self.job.squared_error(dict.fromkeys(self.members, self._pipeline(codec)), unit)

    def encode(self, codec: Codec) -> list[Encoded]:
        """Return the chunks with ``codec`` in the place of the plan; each is encoded once."""
        pipeline = self._pipeline(codec)
        if pipeline not in self.encoded:
            self.encoded[pipeline] = self.job.encode(dict.fromkeys(self.members, pipeline))
        return self.encoded[pipeline]

    def _pipeline(self, codec: Codec) -> Pipeline:
        return Pipeline((*self.before, *(codec.stages if isinstance(codec, Pipeline) else (codec,)), *self.behind))
