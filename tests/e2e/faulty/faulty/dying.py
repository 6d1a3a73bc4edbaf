"""A server that is killed in a phase of a round, without a word. ::

    configure ─► messages are sent ─► receive ─► aggregate ─► write ─► publish

``receive`` is behind the first reply, ``write`` between two groups of a checkpoint, ``publish`` before its manifest.
"""

import os
import signal
from pathlib import Path
from typing import Any

from flowerpress.arrays import store
from flowerpress.federation.grid import PressGrid


def die_in(phase: str, server_round: int, strategy: Any, note: Path) -> None:
    """Have this process killed in a phase of a round of this strategy, behind a note."""
    hooks: dict[str, tuple[Any, str, bool]] = {
        "configure": (strategy, "configure_train", True),
        "receive": (PressGrid, "_receive", True),
        "aggregate": (strategy, "aggregate_train", True),
        "write": (store, "write", True),
        "publish": (store.Checkpoints, "_create", False),
    }
    owner, name, after = hooks[phase]
    configure, now = strategy.configure_train, [0]

    def noting(number: int, *arguments: Any) -> Any:
        now[0] = number
        return configure(number, *arguments)

    strategy.configure_train = noting
    function = getattr(owner, name)

    def dying(*arguments: Any) -> Any:
        found = function(*arguments) if after or now[0] != server_round else None
        if now[0] == server_round:
            note.write_text(f"{phase} {server_round}")
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, dying)
