from fractions import Fraction

import pytest
import torch
from torch import nn

from flowerpress.latent_codecs.layers import CheckerboardConv, conv, deconv
from flowerpress.latent_codecs.twins import forget, on_grid, twin


def nets() -> list[nn.Module]:
    torch.manual_seed(0)
    wide = nn.Sequential(conv(12, 40, 5, 1), nn.ReLU(), conv(40, 8, 5, 2))
    return [wide, conv(3, 7, 3, 1), deconv(6, 5), deconv(5, 4, 3, 1), CheckerboardConv(4, 8), nn.Conv2d(9, 4, 1)]


@pytest.mark.parametrize("net", nets(), ids=str)
def test_a_twin_does_what_its_network_does(net: nn.Module) -> None:
    channels = next(m for m in net.modules() if hasattr(m, "in_channels")).in_channels
    x = torch.randn(3, channels, 7, 10)
    found, expected = twin(net)(x), net(x)
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2e-3


@pytest.mark.parametrize("net", nets(), ids=str)
def test_no_order_of_sums_makes_a_difference(net: nn.Module) -> None:
    channels = next(m for m in net.modules() if hasattr(m, "in_channels")).in_channels
    x = torch.randn(8, channels, 9, 9) * 100
    together = twin(net)(x)
    assert torch.equal(together, torch.cat([twin(net)(item[None]) for item in x]))
    assert torch.equal(together, twin(net)(x.to(memory_format=torch.channels_last)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert torch.equal(together, twin(net)(x))
    finally:
        torch.set_num_threads(before)


def test_sums_are_those_of_rational_numbers() -> None:
    torch.manual_seed(1)
    net, x = nn.Conv2d(50, 1, 1), torch.randn(1, 50, 1, 1) * 1000
    made = twin(net)
    weights = [Fraction(w) for w in made.matrix.flatten().tolist()]
    values = [Fraction(v) for v in on_grid(x).flatten().tolist()]
    exact = sum(w * v for w, v in zip(weights, values, strict=True)) + Fraction(float(made.bias))
    assert float(made(x)) == float(Fraction(round(exact * 65536), 65536))


def test_values_beyond_what_is_exact_are_limited() -> None:
    made = twin(nn.Conv2d(4, 2, 3))
    far = made(torch.full((1, 4, 5, 5), 1e30))
    assert bool(far.isfinite().all())
    assert torch.equal(far, made(torch.full((1, 4, 5, 5), 1e25)))
    widest = float(made.matrix.abs().sum(1).max()) * made.limit
    unit = 2.0**-16 * float(made.matrix.abs()[made.matrix != 0].min())
    assert widest / unit < 2**60  # of which 53 bits are used
    assert Fraction(widest) / Fraction(2**-16) <= 2**53


def test_a_twin_follows_its_weights() -> None:
    net, x = conv(2, 3), torch.randn(1, 2, 4, 4)
    before = twin(net)
    assert twin(net) is before
    with torch.no_grad():
        net.weight.add_(1.0)
    assert not torch.equal(before(x), twin(net)(x))
    net.load_state_dict(conv(2, 3).state_dict())
    assert (twin(net)(x) - net(x)).abs().max() < 1e-3
    net.weight.data.mul_(2)  # which torch does not note
    forget(net)
    assert (twin(net)(x) - net(x)).abs().max() < 1e-3


def test_unknown_layers_run_in_float64() -> None:
    net = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 1))
    x = torch.randn(5, 6)
    found = twin(net)(x.double())
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), net(x), atol=1e-5)
    assert next(net.parameters()).dtype == torch.float32
    assert next(net.parameters()).requires_grad


def test_weights_of_any_size_have_twins() -> None:
    for size in (0.0, 1e-30, 1e20):
        net = nn.Conv2d(2, 2, 3, padding=1)
        with torch.no_grad():
            net.weight.fill_(size)
        assert bool(twin(net)(torch.randn(1, 2, 4, 4)).isfinite().all())


def test_models_made_for_inference_have_twins() -> None:
    with torch.inference_mode():
        net = conv(2, 3)
        assert twin(net)(torch.zeros(1, 2, 4, 4)).shape == (1, 3, 2, 2)
