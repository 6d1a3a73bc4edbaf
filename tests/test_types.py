"""Types, as a test, so that they are checked beside the others: half of a minute to a minute of one core."""

import subprocess
import sys
from pathlib import Path


def test_types() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
