"""The README's commands, copied and run as a new user would, in a fresh clone.

Those of other machines are in `test_documented.py`, `test_deploy_local.py` and `tests/docker`; the two of make are what
runs these tests.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowerpress.deployment.superlink import SuperLink
from tests.e2e.conftest import Outcome

ROOT = Path(__file__).parents[2]
NETWORK = "uoft-cs/cifar10"  # comes from a hub
RAN = ("Run", "Override")


def commands(title: str) -> list[str]:
    """Return the lines of a section's code blocks, without comments."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)).splitlines()
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A fresh clone, and an environment whose Flower does not leave a SuperLink behind."""
    folder = tmp_path_factory.mktemp("user") / "flowerpress"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    with SuperLink(simulation=True, log=folder.with_suffix(".log")) as superlink:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        yield folder, {**superlink.env, "PATH": path}


@pytest.mark.parametrize("command", [line for title in RAN for line in commands(title) if NETWORK not in line])
def test_a_command(command: str, clone: tuple[Path, dict[str, str]], outcome: Outcome) -> None:
    folder, env = clone
    runs = sorted((folder / "runs").glob("*")) if (folder / "runs").is_dir() else []
    written = command.replace("runs/<id>", f"runs/{runs[0].name}" if runs else "runs/<id>")
    started = time.monotonic()
    done = subprocess.run(["bash", "-euc", written], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    outcome(0, f"README: {command}", f"{time.monotonic() - started:.0f} s")


def test_all_of_them_are_there() -> None:
    assert [len(commands(title)) for title in RAN] == [3, 3]
