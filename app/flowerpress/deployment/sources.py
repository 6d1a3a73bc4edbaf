"""The files of an app that Flower may ship, without the environments and caches beside them.

``flwr run`` resolves the path of every file below the app's folder before it leaves out what ``.gitignore`` and its own
rules name. With a virtual environment in the folder that is most of the time until a run begins: 10 s for 70,000 files.
"""

import shutil
from pathlib import Path

from flowerpress.errors import ConfigError

_SHIPPED = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl"}  # Flower ships no others
_BY_NAME = {"LICENSE", ".gitignore"}
_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")  # of a virtual environment, and of a tool's cache


def copied(app: Path, into: Path) -> Path:
    """Copy what Flower may ship of the app in a folder into a new folder of the same name in ``into``; return it.

    Flower makes the same bundle of both, unless it shipped environments or caches. ConfigError if a file is not to be
    read.
    """
    app, into = app.resolve(), into.resolve()

    def left_out(folder: str, names: list[str]) -> set[str]:
        paths = (Path(folder, name) for name in names)
        return {path.name for path in paths if path == into or not _wanted(path)}

    try:
        return shutil.copytree(app, into / app.name, symlinks=True, ignore=left_out)
    except OSError as error:
        raise ConfigError(f"expected an app whose files can be read in {app}, found: {error}") from error


def _wanted(path: Path) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        return path.name not in {".git", "__pycache__"} and not any((path / mark).exists() for mark in _MARKS)
    return path.suffix in _SHIPPED or path.name in _BY_NAME
