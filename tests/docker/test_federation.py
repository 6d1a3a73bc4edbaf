"""The federation of compose.yml: a run, an outage of one node, and a server that is killed."""

import os
from pathlib import Path

import pytest

from flowerpress.apps.report import summary_of
from flowerpress.apps.results import read_rounds
from tests.docker.compose import CONFIG, USER, Compose, said, same_model


@pytest.fixture(scope="module")
def trained(plain: Compose) -> Path:
    return plain.train(CONFIG)


def test_a_run_ends_as_in_the_simulation_engine(trained: Path, simulated: Path) -> None:
    assert same_model(trained, simulated)
    assert summary_of(trained)["accuracy"] == summary_of(simulated)["accuracy"] > 0.9
    assert summary_of(trained)["failures"] == 0


def test_the_results_belong_to_the_user(trained: Path) -> None:
    for name in (".", "metrics.jsonl", "summary.json", "model.fpb", "plot.png", "app.log"):
        found = os.stat(trained / name)
        assert f"{found.st_uid}:{found.st_gid}" == USER, name
        assert found.st_size > 0, name


def test_an_outage_of_a_node(plain: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    network, node = f"{plain.name}_fleet", plain.container("supernode-1")
    with plain.begin("num-server-rounds=8 codec='safe' torch-threads=1") as run:
        run.wait_for(lambda rounds: len(rounds) > 2, "no two rounds")
        said(["docker", "network", "disconnect", network, node])
        try:
            run.wait_for(lambda rounds: sum(row["failures"] for row in rounds), "nobody missed the node")
        finally:
            said(["docker", "network", "connect", network, node])
        run.wait(600)
        folder = run.folder()
    exchanges = [row["exchanges"][0] for row in read_rounds(folder)[1:]]
    nodes = [{node["partition"]: node for node in exchange["nodes"]} for exchange in exchanges]
    with capsys.disabled():
        for i, found in enumerate(nodes, 1):
            print(f"\nround {i}:", {p: (n["down-bytes"], n["error"]) for p, n in sorted(found.items())}, end="")
    (lost,) = [found[1] for found in nodes if 1 in found and found[1]["error"]]
    assert lost["node"] == nodes[0][1]["node"]
    assert "Unavailable" in lost["error"]
    assert f"node {lost['node']}" in (folder / "app.log").read_text()
    away = next(i for i, found in enumerate(nodes) if 1 not in found or found[1]["error"])
    back = next(i for i, found in enumerate(nodes) if i > away and 1 in found and not found[1]["error"])
    first = nodes[back]
    assert first[1]["node"] == lost["node"]
    assert first[1]["down-bytes"] < 2 * first[0]["down-bytes"]  # the difference to what it has, not the whole
    assert set(nodes[-1]) == {0, 1, 2}


def test_a_run_whose_server_is_killed_goes_on(plain: Compose, simulated: Path) -> None:
    with plain.begin(CONFIG.replace("rounds=3", "rounds=4")) as run:
        run.wait_for(lambda rounds: len(rounds) > 2, "no two rounds")
        plain("kill", "serverapp", "superlink")
        run.wait(300, fails=True)
        folder = run.folder()
    assert len(read_rounds(folder)) < 5
    plain("up", "--detach", "--wait", seconds=300)
    resume = ["flowerpress", "resume", f"/runs/{folder.name}", "--app", "/app", "--connection", "superlink"]
    plain("run", "--rm", "--no-TTY", "train", *resume, seconds=600)
    rounds = read_rounds(folder)
    assert [row["round"] for row in rounds] == [0, 1, 2, 3, 4]
    assert [row["accuracy"] for row in rounds[:4]] == [row["accuracy"] for row in read_rounds(simulated)]
    assert summary_of(folder)["rounds"] == 4
