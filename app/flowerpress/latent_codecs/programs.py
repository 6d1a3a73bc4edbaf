"""Other people's programs, run on files: without a shell, with a deadline, and leaving nothing half-written."""

import os
import resource
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from flowerpress.errors import ConfigError, RunError

Address: TypeAlias = str | os.PathLike[str]


def existing(path: Address) -> Path:
    """Return where a file is: absolute, so that no program takes it for an option."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: expected a file, found none")
    return Path(path).absolute()


@contextmanager
def beside(path: Address, source: Path | None = None, size: int | None = None) -> Iterator[Path]:
    """Provide a file to write, which is at ``path`` when the block has ended well, and nowhere otherwise.

    ConfigError if that is the ``source``; RunError unless ``size`` bytes were written, or some, if that is None.
    """
    target = Path(path).absolute()
    if target.is_dir() or not target.parent.is_dir() or (source and target.exists() and target.samefile(source)):
        raise ConfigError(f"{path}: expected a file to write, in a folder that exists, and not the one to read")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".flowerpress-") as folder:
        partial = Path(folder, "partial")
        yield partial
        found = partial.stat().st_size if partial.is_file() else 0
        if not found or found != (size or found):
            raise RunError(f"{path}: expected {size or 'some'} bytes, found that {found} were written")
        partial.replace(target)


def run(arguments: list[str], timeout: float, *, most: int | None = None, check: bool = True) -> str:
    """Run a program to its end, without a shell and without input, and return what it printed.

    ``most`` is how long a file it may write. RunError if it fails, or is not done in time: it and what it started are
    killed then.
    """
    command = shlex.join(arguments)
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"{command}: cannot be started: {error}; is it built for this machine?") from error
    with process:
        try:
            if most is not None and hasattr(resource, "prlimit"):  # elsewhere, the size is only checked afterwards
                with suppress(OSError):
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
            output, errors = (data.decode(errors="replace") for data in process.communicate(timeout=timeout))
        except BaseException as error:  # Ctrl-C, too: it does not reach another session
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise RunError(f"{command}: expected an end within {timeout:g} s, found none; killed") from error
    if check and process.returncode:
        lines = [line[-400:] for text in (output, errors) for line in text.strip().splitlines()[-5:]]
        raise RunError(f"{command}: expected exit status 0, found {_ending(process.returncode)}:\n" + "\n".join(lines))
    return output


def _ending(status: int) -> str:
    names = {-number: f"a stop by {number.name}" for number in signal.Signals}
    return names.get(status, str(status))
