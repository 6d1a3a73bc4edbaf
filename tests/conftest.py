"""References of tests go to a folder of their own; files run in one process each, simulations one after the other."""

from collections.abc import Iterator

import pytest

from flowerpress.chunks.content import FOLDER


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for pytest-xdist: what a file shares is made once, and simulations take all cores.

    They come first, and types next, so that no process waits for them at the end.
    """
    for item in items:
        group = "simulation" if item.get_closest_marker("simulation") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (not item.get_closest_marker("simulation"), item.path.name != "test_types.py"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tmp_path_factory.mktemp("cache")))
        yield
