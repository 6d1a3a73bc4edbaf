"""What is copied of an app: all that Flower ships, and nothing that it would only look at."""

import os
import re
import shutil
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from flowerpress import ConfigError
from flowerpress.deployment.sources import copied

ROOT = Path(__file__).parents[2]
SHIPPED = (
    "app/a.py",
    "app/deep/er/b.py",
    "conf/c.yaml",
    "d.yml",
    "e.json",
    "f.jsonl",
    "g.toml",
    ".hidden/h.py",
    "lib/i.py",
)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "their app"
    for name in (*SHIPPED, "ignored/j.py", "data/big.bin", "build/k.py", "test_l.py", "app/__pycache__/m.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}")
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    ours = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(re.sub("^fab-include.*", "", ours, flags=re.MULTILINE))
    (folder / ".gitignore").write_text("ignored/\n")
    (folder / "app/linked.py").symlink_to("a.py")
    (folder / "linked").symlink_to(folder, target_is_directory=True)
    (folder / "app/dangling.py").symlink_to("nothing")
    return folder


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's
def test_flower_makes_the_same_bundle_of_it(app: Path, tmp_path: Path) -> None:
    made = build_fab_from_disk(copied(app, tmp_path / "copy"))
    assert made == build_fab_from_disk(app)
    assert {"app/a.py", ".hidden/h.py", "conf/c.yaml"} <= set(zipfile.ZipFile(BytesIO(made)).namelist())


def test_environments_and_caches_stay_behind(app: Path, tmp_path: Path) -> None:
    for folder, mark in (("my-env", "pyvenv.cfg"), ("app/.cache", "CACHEDIR.TAG"), (".git", "config")):
        (app / folder).mkdir()
        (app / folder / mark).touch()
        (app / folder / "module.py").touch()
    found = copied(app, tmp_path / "copy")
    assert found.name == app.name
    files = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    assert files == {*SHIPPED, "ignored/j.py", "build/k.py", "test_l.py"} | {
        "pyproject.toml",
        "LICENSE",
        "README.md",
        ".gitignore",
    }


def test_a_copy_within_the_app_is_not_copied(app: Path) -> None:
    (app / "temporary").mkdir()
    found = copied(app, app / "temporary")
    assert (found / "app/a.py").is_file()
    assert not (found / "temporary").exists()


def test_a_file_that_cannot_be_read_is_named(app: Path, tmp_path: Path) -> None:
    os.mkfifo(app / "app/pipe.py")
    with pytest.raises(ConfigError, match=r"expected an app whose files can be read in .*pipe\.py"):
        copied(app, tmp_path / "copy")
