"""20,000 damaged and 20,000 forged inputs per run, decoded in a child process: `driver` says what is checked."""

import json
import subprocess
import sys

import pytest

COUNT = 20_000


@pytest.mark.parametrize("mode", ["damaged", "forged"])
def test_hostile_bytes(mode: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.hostile.driver", mode, str(COUNT), "20261121"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the process died with {done.returncode}: {done.stderr[-2000:]}"
    found = json.loads(done.stdout)
    assert found["wrong"] == 0, found
    assert found["grown-MB"] < 64, found
    assert found["rejected"] > COUNT * (0.9 if mode == "damaged" else 0.3), found
    assert found["rejected"] + found.get("exact", 0) + found.get("accepted", 0) == COUNT, found
