"""One thread for linear algebra while records are encoded: arrays are what runs in parallel, one on each core.

BLAS libraries start a thread per core for every caller; two callers on two cores then wait for each other most of the
time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limit:
    """The limit that all callers share: the first sets it, the last takes it back."""

    def __init__(self) -> None:
        self.lock, self.inside = Lock(), 0
        self.limiter: Any = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.limiter = _controller().limit(limits=1, user_api="blas")
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.limiter.restore_original_limits()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


one_thread = _Limit().hold
