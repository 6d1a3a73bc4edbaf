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
    what the first was wrong by; the others are found by the secant method. Steps have four decimal digits, because
    they travel as text. Raises ConfigError if every step takes too much.
    """
    step = _short(guess(_AIM))
    tried = [(step, used(step))]
    while not (_UNDER <= tried[-1][1] <= 1 or _is_flat(tried) or len(tried) == _MOST_TRIALS):
        last, share = tried[-1]
        if len(tried) > 1:
            step = _short(_secant(tried))
        elif share:
            step = _short(guess(_AIM**2 / share))
        if step in (s for s, _ in tried):
            if _around(tried):  # no step with so few digits lies between
                break
            step = _short(last * (4.0 if (share <= 1) == rising else 0.25))  # a plateau
        tried.append((step, used(step)))
    best = max((t for t in tried if t[1] <= 1), key=lambda t: t[1], default=None)
    if best is None:
        raise ConfigError(
            "budget: it cannot be met: exact arrays (integers, NaN), and the names of arrays, take more; raise it"
        )
    return best[0]


def _is_flat(tried: list[tuple[float, float]]) -> bool:
    """Tell whether the last two steps stayed within the budget, and made no difference."""
    return len(tried) > 1 and tried[-1][1] <= 1 and abs(tried[-1][1] - tried[-2][1]) < 1e-3


def _short(step: float) -> float:
    """Return the nearest number of four decimal digits.

    >>> _short(0.012345678), _short(1234567.0)
    (0.01235, 1235000.0)
    """
    return float(f"{step:.3e}")


def _points(tried: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(log(step), log(max(share, 1e-9) / _AIM)) for step, share in tried]


def _around(tried: list[tuple[float, float]]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return neighbours, on logarithms, of which one takes more than the aim, and the other does not."""
    return [(a, b) for a, b in pairwise(sorted(_points(tried))) if (a[1] > 0) != (b[1] > 0)]


def _secant(tried: list[tuple[float, float]]) -> float:
    """Return the step that should meet the aim: between neighbours of which one takes too much, or beyond the last."""
    if around := _around(tried):
        (x0, y0), (x1, y1) = around[0]
        least = 0.1 if len(tried) < 5 else 0.3  # of the way, lest a bend or a jump keep it at one end
        return exp(x0 + (x1 - x0) * min(1 - least, max(least, y0 / (y0 - y1))))
    (x0, y0), (x1, y1) = _points(tried[-2:])
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
    return exp(x1 - max(-3.0, min(3.0, y1 / slope if slope else copysign(3.0, y1))))
