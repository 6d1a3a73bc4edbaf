"""Real arrays to measure codecs on: trained weights, what fine-tuning makes of them, and rounds of federated training.

All of it is made from seeds and from what is installed. What takes training is kept in `.bench-data/` beside the
sources; delete that folder after a change of this file, or of torch, to have it made again.
"""

import ast
import itertools
import os
import random
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from flowerpress.apps import classify
from flowerpress.apps.data import Images, Partitioning, client_images
from flowerpress.apps.models import model_for
from tests.benchmarks.bert import batch, embed
from tests.benchmarks.timing import minilm

Arrays: TypeAlias = dict[str, np.ndarray]

FOLDER = Path(__file__).resolve().parents[2] / ".bench-data"
STEPS, PAIRS, WORDS = 40, 16, 32  # of fine-tuning: steps, pairs of texts per step, tokens per text
HEADS, EPSILON, DROPOUT = 12, 1e-12, 0.1  # of all-MiniLM-L6-v2
MOMENTS = ("exp_avg", "exp_avg_sq")  # torch's names of Adam's first and second moments
ROUNDS = (1, 5)


def bf16(weights: Arrays) -> Arrays:
    """Return the same arrays rounded to bfloat16, in ml_dtypes' dtype."""
    return {key: x.astype(ml_dtypes.bfloat16) for key, x in weights.items()}


def minilm_updates(optimizer: str) -> tuple[Arrays, Arrays]:
    """Return (weights before, weights after) 40 steps of fine-tuning all-MiniLM-L6-v2 with ``"sgd"`` or ``"adamw"``.

    The steps pull the first paragraph of docstrings of Python's library towards the rest of the same docstring, and
    away from the others in the batch. The pooler, which sentence embeddings do not use, stays as it was; the embeddings
    of words and positions that no text had do so with SGD, and only decay, by 2e-7 per step, with AdamW.
    """
    base = minilm()
    after = kept(f"minilm-{optimizer}", lambda: fine_tuned(optimizer)[0])
    return base, {key: after[key] for key in base}


def minilm_moments() -> tuple[Arrays, Arrays]:
    """Return Adam's (first, second) moments after the same 40 steps of AdamW, of each tensor that it has trained."""
    first, second = (kept(f"minilm-adamw-{name}", lambda name=name: fine_tuned("adamw")[1][name]) for name in MOMENTS)
    return first, second


def digits_updates(model: str) -> dict[int, tuple[Arrays, Arrays]]:
    """Return, for rounds 1 and 5, (model that the server sent, model that the first client made of it).

    Two clients with different shares of the digits train ``"mlp"``, 1.1 M values, or ``"cnn"``, 0.2 M, for an epoch
    per round, and the server averages them. Batch normalisation's counters, which are integers, are left out.
    """
    flat = kept(f"digits-{model}", lambda: federated(model))
    return {number: (under(f"{number}.server.", flat), under(f"{number}.client.", flat)) for number in ROUNDS}


def kept(name: str, make: Callable[[], Arrays]) -> Arrays:
    """Return what ``make`` gives, from the file of that name if it has been made before."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        save_file(make(), unfinished)
        unfinished.replace(path)
    return load_file(path)


def under(prefix: str, flat: Arrays) -> Arrays:
    return {key.removeprefix(prefix): x for key, x in flat.items() if key.startswith(prefix)}


@contextmanager
def repeatable(threads: int) -> Iterator[None]:
    """Run with a fixed number of threads and a fixed random state, and leave torch as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(before)


# ---- fine-tuning ----


@cache
def fine_tuned(optimizer: str) -> tuple[Arrays, dict[str, Arrays]]:
    """Return (weights, Adam's moments by name); the moments are empty for SGD."""
    weights = {key: torch.from_numpy(x).clone().requires_grad_() for key, x in minilm().items()}
    makers = {
        "sgd": lambda: torch.optim.SGD(weights.values(), lr=0.02),
        "adamw": lambda: torch.optim.AdamW(weights.values(), lr=2e-5),
    }
    made = makers[optimizer]()
    texts = docstrings(STEPS * PAIRS)
    with repeatable(threads=2):
        for step in range(STEPS):
            made.zero_grad()
            contrast(weights, texts[step * PAIRS : (step + 1) * PAIRS]).backward()
            made.step()
    moments = {
        name: {key: made.state[x][name].numpy() for key, x in weights.items() if name in made.state[x]}
        for name in MOMENTS
    }
    return {key: x.detach().numpy() for key, x in weights.items()}, moments


def contrast(weights: dict[str, Tensor], texts: list[tuple[str, str]]) -> Tensor:
    """Return the loss of picking each text's other half, by cosine, among all the halves of the batch."""
    halves = [embed(weights, *batch(column, WORDS)) for column in zip(*texts, strict=True)]
    return functional.cross_entropy(20 * halves[0] @ halves[1].T, torch.arange(len(texts)))


# ---- text ----


def docstrings(count: int) -> list[tuple[str, str]]:
    """Return (first paragraph, rest) of docstrings of the modules of Python's library, in an order of chance."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                first, _, rest = text.partition("\n\n")
                found += [(first, rest)] if len(rest) > 40 else []
    found = sorted(set(found))
    if len(found) < count:
        raise SystemExit(f"expected {count} docstrings of several paragraphs in Python's library, found {len(found)}")
    return random.Random(0).sample(found, count)


# ---- federated digits ----


def federated(model: str) -> Arrays:
    """Return all (server, client) pairs of `digits_updates` in one dict: the keys start with round and side."""
    parts = [client_images(Partitioning("digits", "dirichlet", 0.5, 1, 2), i) for i in range(2)]
    total = sum(map(len, parts))
    found: Arrays = {}
    with repeatable(threads=1):
        trained = network(model, parts[0])
        state = copied(trained)
        for number in range(1, max(ROUNDS) + 1):
            replies = []
            for i, images in enumerate(parts):
                trained.load_state_dict(state)
                seed = 10 * number + i
                classify.train(trained, images, epochs=1, batch_size=32, learning_rate=0.05, seed=seed)
                replies.append(copied(trained))
            if number in ROUNDS:
                sides = {"server": state, "client": replies[0]}
                found |= {f"{number}.{side}.{key}": x for side, of in sides.items() for key, x in floats(of).items()}
            shares = [len(images) / total for images in parts]
            state = {key: average([reply[key] for reply in replies], shares) for key in state}
    return found


def network(model: str, images: Images) -> nn.Module:
    """Return the app's own CNN, or a perceptron with two hidden layers of 1,024."""
    if model == "cnn":
        return model_for("cnn", images, 0)
    if model != "mlp":
        raise ValueError(f"expected 'mlp' or 'cnn', found {model!r}")
    sizes = (images.pixels[0].size, 1024, 1024, images.classes)
    layers = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def average(tensors: list[Tensor], shares: list[float]) -> Tensor:
    return sum(share * x.double() for share, x in zip(shares, tensors, strict=True)).to(tensors[0].dtype)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {key: x.detach().cpu().clone() for key, x in model.state_dict().items()}


def floats(state: dict[str, Tensor]) -> Arrays:
    return {key: x.numpy() for key, x in state.items() if x.dtype == torch.float32}
