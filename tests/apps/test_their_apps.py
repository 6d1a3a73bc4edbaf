"""The apps of others in this process, two rounds each: pressed, they learn what they learn on stock Flower.

`tests/e2e/test_their_apps.py` does the same in Flower's engines.
"""

from pathlib import Path

import pytest

from tests.e2e.their_apps import NAMES, accuracy, assert_equal, copied, counted, diffs_of, metrics, pin, run_here, saved


@pytest.mark.parametrize("name", NAMES)
def test_pressed_apps_end_with_the_model_of_stock_flower(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    diffs, models, said, nbytes = diffs_of(name), [], [], []
    for number in range(len(diffs) + 1):
        app, results = copied(name, tmp_path / f"app-{number}", *diffs[:number]), tmp_path / f"results-{number}"
        pin(app, results)
        caplog.clear()
        with caplog.at_level("INFO", "flwr"):
            run_here(app, {"num-server-rounds": 2})
        models.append(saved(results))
        said.append(caplog.text)
        nbytes.append(counted(results))
    for model, text in zip(models[1:], said[1:], strict=True):
        assert_equal(models[0], model)
        assert metrics(text) == metrics(said[0])
    assert accuracy(said[0]) > 0.5
    assert nbytes == sorted(nbytes, reverse=True)
    assert nbytes[1] < 0.8 * nbytes[0]
