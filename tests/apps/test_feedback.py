"""What error feedback is for: at a low rate, a real model learns with it, and hardly without."""

from pathlib import Path

from flowerpress.apps.inprocess import run
from flowerpress.apps.runconfig import defaults

ROOT = Path(__file__).resolve().parents[2]
COARSE = "delta(positive=true) | quantize(step=0.2) | entropy"


def test_a_model_learns_at_a_low_rate_with_feedback() -> None:
    config = {**defaults(ROOT), "codec": COARSE, "codec-down": "zstd", "num-server-rounds": 6}
    found = {on: run({**config, "error-feedback": on}, clients=4).accuracy[-1] for on in (True, False)}
    assert found[True] > 0.8
    assert found[False] < 0.6, "updates below half a step are dropped, round after round"
