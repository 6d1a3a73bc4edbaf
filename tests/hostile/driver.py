"""Decodes damaged bytes in a process of its own and prints, as JSON, what became of them.

Usage: python -m tests.hostile.driver MODE COUNT SEED [PIPELINE], where MODE is ``damaged`` (digests stay as they were)
or ``forged`` (the attacker makes them right again). With PIPELINE only bundles of that one are damaged.
"""

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.latent import LatentChunks
from flowerpress.chunks.pack import BY_SCHEMA, HEAD, pack
from flowerpress.codecs.base import Spec
from flowerpress.codecs.policy import Policy
from flowerpress.errors import FlowerpressError
from flowerpress.wire import KEY, PRESSED, unpress
from tests.bundles import Parts, plain
from tests.hostile.crafted import KNOWN, crafted, crafted_by_schema
from tests.hostile.mutations import mutate

DIFFERENCES = (
    "intdelta | zstd",
    "delta | zfp(tolerance=0.01)",
    "delta | zstd",
    "cast | raw",
    "delta | quantize(step=0.01) | entropy",
    "delta(positive=true) | quantize(step=0.01) | entropy",
    "delta | sparse(above=0.05) | nonzero",
    "intdelta | entropy",
)
CODECS = (
    "quantize(step=0.05) | entropy",
    "lowrank(rank=4, step=0.1) | entropy",
    "sparse(keep=0.2) | nonzero | zstd",
    "nonzero",
    "quantize(bits=4, block=16) | entropy",
    "quantize(bits=4, block=16) | bitpack",
    "quantize(relative=0.001) | entropy | zstd",
    "zstd",
    "raw",
    "zfp",
    "zfp(tolerance=0.01)",
    "planes",
    "zstd(level=9)",
    "a*:float32 = zfp; * = zstd",
)
CONTEXTS = 3  # the method of the entropy codec that these pipelines must use
WITH_CONTEXTS = ("quantize(step=0.05) | entropy", "intdelta | entropy")
REJECTED, EXACT, ACCEPTED = "rejected", "exact", "accepted"


class Wrong(Exception):
    """Bytes decoded to what they must not."""


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "a.weight": rng.standard_normal((24, 12)).astype(np.float32),
        "a.bias": rng.standard_normal(24).astype(np.float32),
        "half": rng.standard_normal((5, 7)).astype(np.float16),
        "double": rng.standard_normal((3, 4, 5)),
        "count": np.array(41),
        "flags": rng.random(33) > 0.5,
        "zeros": np.zeros((40, 40), np.float32),
        "copy": np.zeros((40, 40), np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "uneven": (rng.laplace(size=(60, 40)) * 0.1 * uneven(rng)).astype(np.float32),
    }


def uneven(rng: np.random.Generator) -> np.ndarray:
    """Return the scales of rows and columns that moved by very different amounts."""
    return np.exp2(rng.normal(0, 2, (60, 1)) + rng.normal(0, 2, (1, 40)))


def references() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    bases = {key: (x * 0.9).astype(x.dtype) for key, x in arrays().items()}
    bits = arrays()["uneven"].view(np.int32)
    bases["uneven"] = (bits + np.rint(rng.laplace(size=bits.shape) * uneven(rng)).astype(np.int32)).view(np.float32)
    return bases


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, exact: bool) -> str:
    """Compare with what the receiver expects: the same values, or at least finite ones of the right shapes."""
    if list(found) != list(expected) and exact:
        raise Wrong(f"keys {list(found)}")
    for key, x in expected.items():
        y = found[key]
        if (y.dtype, y.shape) != (x.dtype, x.shape):
            raise Wrong(f"{key}: {y.dtype}{y.shape}")
        if exact and y.tobytes() != x.tobytes():
            raise Wrong(f"{key}: other values")
        if not np.isfinite(y).all():
            raise Wrong(f"{key}: not finite")
    return EXACT if exact else ACCEPTED


def of_differences(codec: str) -> bool:
    """Tell whether a codec takes differences: it refuses an array that has no reference."""
    return any(rule.pipeline.refuses(Spec("w", "float32", (3,))) for rule in Policy.parse(codec).rules)


class Bundles:
    """Bundles of several pipelines, read from memory."""

    def __init__(self, pipelines: Sequence[str] = (*CODECS, *DIFFERENCES)) -> None:
        self.bases = references()
        forms = [(codec, short) for codec in pipelines for short in (False, True) if of_differences(codec) or not short]
        self.differences = [of_differences(codec) for codec, _ in forms]
        self.seeds = [
            pack(arrays(), codec, bases=self.bases if differences else None, by_schema=short)
            for (codec, short), differences in zip(forms, self.differences, strict=True)
        ]
        for (codec, short), seed in zip(forms, self.seeds, strict=True):
            if codec in WITH_CONTEXTS and CONTEXTS not in first_bytes(seed, self.bases):
                raise Wrong(f"{codec}: no chunk with contexts")
            if short != (seed[: len(HEAD)] == BY_SCHEMA):
                raise Wrong(f"{codec}: not of the form that was asked for")
        self.expected = [Bundle(seed, bases=self.bases).read_all() for seed in self.seeds]
        self.specs = {key: Bundle(self.seeds[0]).spec(key) for key in self.expected[0]}

    def damaged(self, rng: random.Random) -> str:
        i = rng.randrange(len(self.seeds))
        data = mutate(rng, self.seeds[i], self.seeds)
        if self.differences[i] or rng.random() < 0.5:
            return check(Bundle(data, bases=self.bases).read_all(1), self.expected[i], exact=True)
        record = ArrayRecord()
        record[KEY] = Array("uint8", (len(data),), PRESSED, data)
        return check({k: a.decode() for k, a in unpress(record).items()}, self.expected[i], exact=True)  # type: ignore[attr-defined]

    def forged(self, rng: random.Random) -> str:
        i = rng.randrange(len(self.seeds))
        data = forge_bundle(rng, self.seeds[i], self.seeds)
        bundle = Bundle(data, bases=self.bases, finite=True)
        bundle.require(self.specs)
        return check(bundle.read_all(1), self.expected[i], exact=False)


def first_bytes(data: bytes, bases: dict[str, np.ndarray]) -> set[int]:
    layout = Bundle(data, bases=bases).layout
    chunks = zip(layout.chunks, layout.offsets, strict=True)
    return {data[len(HEAD) + offset + chunk.header] for chunk, offset in chunks}


def forge_bundle(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change chunks or manifest of a bundle and make every digest and length right again."""
    parts = Parts.of(data)
    for number, (header, payload) in enumerate(parts.chunks):
        changed = mutate(rng, payload, others) if rng.random() < 0.5 and payload else payload
        parts.chunks[number] = mutate(rng, header, others) if rng.random() < 0.1 and header else header, changed
    parts.agree()
    if rng.random() < 0.4:
        forge_fields(rng, parts.fields)
    manifest = parts.manifest()
    if rng.random() < 0.1:
        manifest = parts.pressed(mutate(rng, plain(parts.head, manifest), others))
    if rng.random() < 0.1:
        manifest = mutate(rng, manifest, others)
    return parts.bundle(manifest)


def forge_fields(rng: random.Random, fields: list[Any]) -> None:
    """Put something else in the place of one value of the manifest, at any depth."""
    where: Any = fields
    while True:
        index = rng.randrange(len(where))
        if not (isinstance(where[index], list) and where[index] and rng.random() < 0.9):
            break
        where = where[index]
    number = rng.choice((-1, 0, 1, 3, 4, 255, 2**16, 2**24, 2**31, 2**32, 2**47, 2**63))
    where[index] = rng.choice(
        (
            number,
            number,
            number,
            None,
            "",
            "zfp",
            "raw",
            "float64",
            "x" * 5000,
            [],
            [0] * 9,
            [number, number],
            b"12345678",
        )
    )


class Latents:
    """LATN chunks, through manifest records and a file."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(8)
        self.chunks, self.path = LatentChunks(), folder / "latents"
        source = {str(i): rng.standard_normal((1, 4, 8, 2 + i)).astype(np.float32) for i in range(3)}
        self.cases: list[tuple[bytes, dict[str, Any], np.ndarray]] = []
        for compress in (True, False):
            for half in (True, False):
                records: list[dict[str, Any]] = []
                packed = self.chunks.latent_packer(source, 0, records, compress, half)
                for chunk, record, x in zip(packed, records, source.values(), strict=True):
                    self.cases.append((chunk, {**record, "offset": 0}, x.astype(np.float16 if half else np.float32)))
        self.seeds = [chunk for chunk, _, _ in self.cases]

    def damaged(self, rng: random.Random) -> str:
        chunk, record, expected = rng.choice(self.cases)
        data = mutate(rng, chunk, self.seeds)
        record = {**record, "extra": dict(record["extra"])}
        if rng.random() < 0.5:
            record["compressed_size"] = len(data)
            record["len_data"] = len(data) - record["len_header"]
        if rng.random() < 0.3:
            place = rng.choice((record, record["extra"]))
            values = (-1, 0, 2**31, 2**63, None, "", [1, 4, 8, 3], [2**40], [-1, 4], True, "F32", "LATN", {}, 1.5)
            place[rng.choice([k for k in place if k not in ("hash", "shape")])] = rng.choice(values)
        self.path.write_bytes(data)
        return check({"x": self.chunks.make_lazy_latent_loader(str(self.path), record)()}, {"x": expected}, exact=True)

    def forged(self, rng: random.Random) -> str:
        chunk, record, expected = rng.choice(self.cases)
        data = mutate(rng, chunk, self.seeds)
        parts: Any = data
        if record["compressed"]:
            parts = {"chunk": data, "len_header": record["len_header"], "len_data": len(data) - record["len_header"]}
        x = self.chunks.latent_parser(parts, expected.shape, record["compressed"])
        if x.dtype not in (np.float16, np.float32):
            raise Wrong(str(x.dtype))
        return check({"x": x}, {"x": expected.astype(x.dtype)}, exact=False)


def attack(data: bytes) -> None:
    try:
        Bundle(data, bases=KNOWN).read_all(1)
    except FlowerpressError:
        return
    raise Wrong("accepted a crafted bundle")


def memory(what: str) -> int:
    """Return VmRSS or VmHWM, the peak, of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(what)))


def main() -> None:
    mode, count, seed, only = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    rng, results, wrong = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        targets = [Bundles(only)] if only else [Bundles(), Latents(Path(folder))]
        attacks = crafted() + crafted_by_schema()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        baseline = memory("VmRSS")
        for data in attacks:
            attack(data)
        for number in range(count):
            try:
                results[getattr(targets[number % len(targets)], mode)(rng)] += 1
            except FlowerpressError:
                results[REJECTED] += 1
            except Exception as error:
                wrong.append(f"{number}: {error!r}"[:300])
    grown = memory("VmHWM") - baseline
    print(json.dumps({**results, "wrong": len(wrong), "examples": wrong[:5], "grown-MB": grown / 1024}))


if __name__ == "__main__":
    main()
