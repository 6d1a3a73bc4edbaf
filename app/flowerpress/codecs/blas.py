"""One thread for linear algebra while records are encoded: arrays are what runs in parallel, one on each core.

BLAS libraries start a thread per core for every caller; two callers on two cores then wait for each other most of the
time, and add up in another order than one does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock, Thread
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limit:
    """The limit that all callers share: the first sets it, the last takes it back.

    Where a library has a limit for the whole process, threadpoolctl (3.8) lets one thread at a time change it, as long
    as that lives; so threads that end at once do it. Where limits are of one thread, each caller has its own.
    """

    def __init__(self) -> None:
        self.lock, self.inside = Lock(), 0
        self.limiter: Any = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                _in_a_thread(self._set)
            self.inside += 1
        try:
            with _controller().limit(limits=1, user_api="blas"):
                yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    _in_a_thread(self.limiter.restore_original_limits)

    def _set(self) -> None:
        self.limiter = _controller().limit(limits=1, user_api="blas")


def _in_a_thread(function: Callable[[], None]) -> None:
    thread = Thread(target=function)
    thread.start()
    thread.join()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


one_thread = _Limit().hold
