"""The apps of others in this process, two rounds each: pressed, they learn what they learn on stock Flower.

`tests/e2e/test_their_apps.py` does the same in Flower's engines.
"""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.their_apps import NAMES, STOCK, accuracy, assert_equal, copied, counted, metrics, pin, run_here, saved


@dataclass(frozen=True)
class Ran:
    model: dict[str, np.ndarray]
    said: str
    nbytes: int


@pytest.fixture
def ran(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    def run(name: str, config: str = "", *, pressed: bool) -> Ran:
        where = tmp_path / ("pressed" if pressed else "stock")
        app, results = copied(name, where, pressed=pressed), where.with_suffix(".results")
        pin(app, results)
        caplog.clear()
        with caplog.at_level("INFO", "flwr"):
            run_here(app, {"num-server-rounds": 2, **tomllib.loads(config)})
        return Ran(saved(results), caplog.text, counted(results))

    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize("name", NAMES)
def test_pressed_apps_end_with_the_model_of_stock_flower(name: str, ran: Callable[..., Ran]) -> None:
    stock, pressed = ran(name, STOCK.get(name, ""), pressed=False), ran(name, pressed=True)
    assert_equal(stock.model, pressed.model)
    assert metrics(stock.said) == metrics(pressed.said)
    assert accuracy(stock.said) > 0.5
    assert pressed.nbytes < 0.8 * stock.nbytes


def test_stock_flower_has_no_bfloat16(ran: Callable[..., Ran]) -> None:
    with pytest.raises(TypeError, match="BFloat16"):
        ran("lora", pressed=False)
