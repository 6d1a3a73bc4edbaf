"""Linear algebra takes one thread while records are encoded, whoever began or ended first."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from flowerpress.codecs.blas import _controller, one_thread


def threads() -> set[int]:
    return {library.num_threads for library in _controller().lib_controllers if library.user_api == "blas"}


def test_one_thread_for_all_callers() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    before, seen = threads(), set[int]()
    rng = random.Random(0)

    def call(seconds: float) -> None:
        with one_thread(), one_thread():
            for _ in range(5):
                time.sleep(seconds)
                seen.update(threads())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, [rng.random() * 0.002 for _ in range(60)]))
    assert seen <= {1}
    assert threads() == before
