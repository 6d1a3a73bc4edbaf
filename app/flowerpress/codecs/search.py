"""Where a monotone function of a step meets a budget: guesses first, then the secant method on logarithms."""

from collections.abc import Callable
from itertools import pairwise
from math import copysign, exp, log

from flowerpress.errors import ConfigError

_UNDER = 0.98  # of the budget is near enough
_AIM = 0.99
_MOST_TRIALS = 20


def search(used: Callable[[float], float], guess: Callable[[float], float], *, rising: bool) -> float:
    """Return a step that uses at most all of its budget, and at least 98% of it if the steps tried come so near.

    ``used`` tries a step and returns the share of the budget that it takes, which grows with the step if it is
    ``rising``; ``guess`` returns the step that should take a share. The first two steps are guessed, the second with
    what the first was wrong by; the others are found by the secant method. Raises ConfigError if every step takes too
    much.
    """
    step = guess(_AIM)
    tried = [(step, used(step))]
    while not (_UNDER <= tried[-1][1] <= 1 or _is_flat(tried) or len(tried) == _MOST_TRIALS):
        step, share = tried[-1]
        if len(tried) > 1:
            step = _secant(tried)
        elif share:
            step = guess(_AIM**2 / share)
        if step in (s for s, _ in tried):  # a plateau
            step = tried[-1][0] * (4.0 if (share <= 1) == rising else 0.25)
        tried.append((step, used(step)))
    best = max((t for t in tried if t[1] <= 1), key=lambda t: t[1], default=None)
    if best is None:
        raise ConfigError(
            "budget: it cannot be met: what must stay exact, and the names of arrays, take more; raise it"
        )
    return best[0]


def _is_flat(tried: list[tuple[float, float]]) -> bool:
    """Tell whether the last two steps stayed within the budget, and made no difference."""
    return len(tried) > 1 and tried[-1][1] <= 1 and abs(tried[-1][1] - tried[-2][1]) < 1e-3


def _secant(tried: list[tuple[float, float]]) -> float:
    """Return the step that should meet the aim: between neighbours of which one takes too much, or beyond the last."""
    points = sorted((log(step), log(max(share, 1e-9) / _AIM)) for step, share in tried)
    around = [(a, b) for a, b in pairwise(points) if (a[1] > 0) != (b[1] > 0)]
    if around:
        (x0, y0), (x1, y1) = around[0]
        least = 0.1 if len(tried) < 5 else 0.3  # of the way, lest a bend or a jump keep it at one end
        return exp(x0 + (x1 - x0) * min(1 - least, max(least, y0 / (y0 - y1))))
    (x0, y0), (x1, y1) = ((log(step), log(max(share, 1e-9) / _AIM)) for step, share in tried[-2:])
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
    return exp(x1 - max(-3.0, min(3.0, y1 / slope if slope else copysign(3.0, y1))))
