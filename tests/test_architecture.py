"""The house rules that a machine can check."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import flowerpress

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "app" / "flowerpress"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LAYERS = [
    *("errors", "exports", "jsons", "codecs", "chunks", "npy", "records", "wire", "arrays", "bench"),
    *("extraction", "latent_codecs", "federation", "deployment", "apps", "cli"),
]
OWNERS = {
    "flwr": {"records", "wire", "federation", "apps"},
    "zarr": {"arrays"},
    "h5py": {"extraction"},
    "obstore": {"arrays", "extraction"},
    "numba": {"latent_codecs"},
    "zfpy": {"codecs"},
    "zstandard": {"codecs", "chunks"},
    "constriction": {"codecs"},
    "pcodec": {"codecs"},
    "threadpoolctl": {"codecs"},
    "sklearn": {"apps"},
    "scipy": {"apps"},
    "datasets": {"apps"},
    "matplotlib": {"apps", "bench"},
    "cryptography": {"deployment"},
    "typer": {"cli"},
}
FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, top: bool = False) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = LAYERS.index(layer(path))
    for name in imports(path):
        if name.startswith("flowerpress."):
            assert LAYERS.index(name.split(".")[1]) <= here, name
        elif (library := name.split(".")[0]) in OWNERS:
            assert layer(path) in OWNERS[library], name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_when_first_used(path: Path) -> None:
    networks = ("classify.py", "models.py", "resnet.py", "hdf5.py", "encoders.py", "codecs.py")
    if path.name not in networks and layer(path) != "latent_codecs":
        assert "torch" not in {name.split(".")[0] for name in imports(path, top=True)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert "pickle" not in imports(path)


def test_at_most_20_public_names_and_all_are_there() -> None:
    assert len(flowerpress.__all__) <= 20
    for name in flowerpress.__all__:
        assert getattr(flowerpress, name).__doc__, name
    with pytest.raises(AttributeError):
        flowerpress.nothing  # noqa: B018


def test_nothing_happens_on_import() -> None:
    code = "import sys, flowerpress; print([m for m in ('numpy', 'flwr', 'torch', 'zfpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_hooks_do_not_import_torch() -> None:
    code = "import sys; from flowerpress import PressGrid, press_mod, LatentRecord; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "code", ["from flowerpress import *; unpress(press(LatentRecord([numpy.ones(9)])))", "import flowerpress.cli"]
)
def test_optional_dependencies_are_imported_when_first_used(code: str) -> None:
    optional = {Requirement(text).name for group in EXTRAS.values() for text in group} - {"mlflow-skinny"} | {"mlflow"}
    heavy = {"torch", "matplotlib", "sklearn", "ray", "datasets", "zarr", "scipy"}
    listed = f"import sys, numpy; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", listed], capture_output=True, text=True, check=True)
    assert "h5py" in optional
    assert not (optional | heavy) & {name.split(".")[0] for name in done.stdout.split()}
