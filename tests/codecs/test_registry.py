import sys
from pathlib import Path

import pytest

from flowerpress.codecs.policy import Policy
from flowerpress.codecs.registry import lookup, names
from flowerpress.codecs.text import parse
from flowerpress.errors import ConfigError

THIRD_PARTY = """
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from flowerpress.codecs.base import ArrayToBytes

@dataclass(frozen=True, kw_only=True)
class Text(ArrayToBytes):
    digits: int = 17
    name: ClassVar[str] = "text"

    def encode(self, x, spec):
        return " ".join(f"{v:.{self.digits}g}" for v in np.asarray(x).ravel()).encode()

    def decode(self, y, spec):
        return np.array([float(v) for v in bytes(y).split()], spec.dtype).reshape(spec.shape)

not_a_codec = 3
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with codecs of its own, installed as pip would leave it."""
    (tmp_path / "their_codecs.py").write_text(THIRD_PARTY)
    info = tmp_path / "their_codecs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-codecs\nVersion: 1.0\n")
    points = ["text = their_codecs:Text", "wrong = their_codecs:not_a_codec", "zstd = their_codecs:Text"]
    (info / "entry_points.txt").write_text("[flowerpress.codecs]\n" + "\n".join(points) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lookup.cache_clear()
    yield
    lookup.cache_clear()
    sys.modules.pop("their_codecs", None)


@pytest.mark.usefixtures("third_party")
def test_entry_points() -> None:
    import numpy as np

    from flowerpress.chunks.bundle import Bundle
    from flowerpress.chunks.pack import pack

    assert "text" in names()
    assert parse("text(digits=9) | zstd").stages[0].config() == {"name": "text", "digits": 9}
    x = np.random.default_rng(0).standard_normal((200, 3))
    bundle = Bundle(pack({"x": x}, "* = text | zstd"))
    assert bundle["x"].tobytes() == x.tobytes()
    assert str(Policy.parse("text")) == "* = text"


@pytest.mark.usefixtures("third_party")
def test_entry_points_that_are_wrong() -> None:
    with pytest.raises(ConfigError, match="expected a Codec whose name is 'wrong'"):
        lookup("wrong")
    assert lookup("zstd").__module__ == "flowerpress.codecs.zstd"


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(
        ConfigError,
        match=r"expected one of auto, best, bitpack, budget, cast, delta, .*, quantize, raw, sparse, zfp, zstd",
    ):
        lookup("nothing")
