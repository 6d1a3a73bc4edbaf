"""``flowerpress deploy local``: what it says is done in another shell; nothing is left; a run goes on in the next."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowerpress.apps.results import read_rounds
from flowerpress.deployment.programs import descendants, program

ROOT = Path(__file__).parents[2]


@contextmanager
def deployed(*options: str) -> Iterator[str]:
    """Start it, yield the command that it says, and end it as a service manager would."""
    command = [program("flowerpress"), "deploy", "local", "--nodes", "2", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    family: list[int] = []
    try:
        assert "2 SuperNodes" in process.stdout.readline()
        said = process.stdout.readline().strip()
        family = descendants(process.pid)
        assert len(family) >= 3
        yield said
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        process.stdout.close()
    left = subprocess.run(["ps", "-o", "pid=,args=", "-p", ",".join(map(str, family))], capture_output=True, text=True)
    assert left.stdout == ""


def done(command: str) -> None:
    path = os.pathsep.join([str(Path(program("flowerpress")).parent), os.environ["PATH"]])
    ran = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_run_goes_on_in_another_federation(tmp_path: Path) -> None:
    with deployed("--security", "keys", "--state", str(tmp_path / "one")) as command:
        done(f"{command} --runs {tmp_path / 'runs'} -c num-server-rounds=1")
    (folder,) = (tmp_path / "runs").iterdir()
    with deployed() as command:
        done(command.replace(" run .", f" resume {folder}") + " -c num-server-rounds=2")
    assert [row["round"] for row in read_rounds(folder)] == [0, 1, 2]
    assert (tmp_path / "one" / "superlink.log").is_file()
