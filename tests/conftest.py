"""References of tests go to a folder of their own; what takes longest comes first."""

import gc
from collections.abc import Iterator

import pytest

from flowerpress.chunks.content import FOLDER

LONGEST = ("test_simulation.py", "test_types.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that no process of pytest-xdist waits for them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """Leave the thousands of tests out of garbage collections: Flower collects whenever it stacks arrays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tmp_path_factory.mktemp("cache")))
        yield
