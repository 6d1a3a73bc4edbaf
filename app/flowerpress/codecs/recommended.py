"""Pipelines with a name: what to use if there is no reason for anything else.

========  =============================================================================================================
lossless  every bit arrives
safe      no value errs by more than 1% of the range in which its array changed; in octaves where it is positive
partial   0.18 bit per parameter, with error feedback on the uplink: where few of the clients take part in a round
small     0.08 bit per parameter, likewise, where all or most of them take part in each
tiny      0.05 bit, where half a point of accuracy may be lost on the way
========  =============================================================================================================

A kilobyte is never too much for the last three. With strategies that step along every coordinate, such as FedAdam, send
down with ``safe``. All are relative to the update, so that nothing has to be tuned;
`tests/benchmarks/bench_federation.py` measures what they trade. The names stand wherever the text of a pipeline does.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recommended:
    """The pipelines behind a name: ``up`` for replies, and wherever there is no direction; ``down`` for messages."""

    up: str
    down: str


def _best(bits: float) -> str:
    """Return the better of one step for all arrays and of low rank, at so many bits per parameter, or a kilobyte."""
    budget = f"bits={bits}, least=1000"
    return f"delta(positive=true) | best(budget({budget}), budget(lowrank | entropy, {budget}))"


_LOSSLESS = "intdelta | zstd"
_SAFE = "delta(positive=true) | quantize(relative=0.01) | entropy"
RECOMMENDED = {
    "lossless": Recommended(_LOSSLESS, _LOSSLESS),
    "safe": Recommended(_SAFE, _SAFE),
    "partial": Recommended(_best(0.18), _best(0.18)),
    "small": Recommended(_best(0.08), _best(0.08)),
    "tiny": Recommended(_best(0.05), _best(0.05)),
}


def up(text: str) -> str:
    """Return the pipeline behind a name; any other text as it is.

    >>> up("lossless")
    'intdelta | zstd'
    """
    return RECOMMENDED[text.strip()].up if text.strip() in RECOMMENDED else text


def down(text: str) -> str:
    """Return the pipeline behind a name for messages to clients; any other text as it is."""
    return RECOMMENDED[text.strip()].down if text.strip() in RECOMMENDED else text
