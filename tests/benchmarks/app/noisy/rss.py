"""The anonymous memory of this process (Linux): what it allocated, without the pages of files that it maps."""

from pathlib import Path
from threading import Event, Thread
from typing import Self

_STATUS = Path("/proc/self/status")
_SECONDS = 0.01  # between samples


def rss_anon() -> int:
    """Return RssAnon in bytes."""
    return int(_STATUS.read_text().partition("RssAnon:")[2].split()[0]) * 1024


class Peak:
    """The most anonymous memory, sampled by a thread for as long as the context lasts."""

    def __enter__(self) -> Self:
        self._most, self._end = rss_anon(), Event()
        self._thread = Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def take(self) -> int:
        """Return the most since this was last called, and begin anew."""
        most, self._most = max(self._most, rss_anon()), 0
        return most

    def _sample(self) -> None:
        while not self._end.wait(_SECONDS):
            self._most = max(self._most, rss_anon())
