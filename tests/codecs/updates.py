"""Records like those that clients send: some neurons moved much, most little, and not all of it may be lossy."""

import numpy as np

SHAPES = {
    "conv.weight": (64, 32, 3, 3),
    "conv.bias": (64,),
    "embed.weight": (1000, 96),
    "fc.weight": (400, 384),
    "fc.bias": (400,),
    "norm.scale": (384,),
    "head.weight": (100, 300),
    "head.bias": (100,),
}


def update(seed: int) -> dict[str, np.ndarray]:
    """Return about 300,000 values, rows and columns of different scales, a counter and a mask."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for key, shape in SHAPES.items():
        x = rng.standard_t(4, shape) * 0.01
        if len(shape) > 1:
            ones = (1,) * (len(shape) - 2)
            x *= np.exp2(rng.normal(0, 1.5, (shape[0], 1, *ones)) + rng.normal(0, 1, (1, shape[1], *ones)))
        arrays[key] = x.astype(np.float32)
    moved = rng.random(1000) < 0.1  # words that a client has seen
    arrays["embed.weight"][~moved] = 0
    arrays["step"] = np.array(1234 + seed)
    arrays["head.mask"] = rng.random(300) < 0.5
    return arrays


def base(seed: int) -> dict[str, np.ndarray]:
    """Return weights that such an update is added to."""
    rng = np.random.default_rng(1000 + seed)
    return {key: (rng.standard_normal(shape) * 0.1).astype(np.float32) for key, shape in SHAPES.items()}
