"""References of tests go to a folder of their own, not to the user's cache."""

from collections.abc import Iterator

import pytest

from flowerpress.chunks.content import FOLDER


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(tmp_path_factory.mktemp("cache")))
        yield
