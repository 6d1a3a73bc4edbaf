import hashlib

import numpy as np
import pytest
import torch

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs import EntropyBottleneck, GaussianConditional
from flowerpress.latent_codecs.cdf import gaussian_tables, scale_table
from flowerpress.latent_codecs.layers import GDN, CheckerboardConv, LowerBound

GAUSSIAN_TABLE = "482d4620b3eb5802ce87f395fc613344f81fa5e5bfeeedae43cb3416ad9eb947"  # of CompressAI's, little-endian


@pytest.fixture
def bottleneck() -> EntropyBottleneck:
    torch.manual_seed(0)
    model = EntropyBottleneck(5).eval()
    with torch.no_grad():
        model.quantiles += torch.tensor([-3.0, 0.3, 4.0]) * torch.rand(5, 1, 3)
    return model


def test_the_gaussian_tables_are_those_of_compressai_to_the_bit() -> None:
    tables = gaussian_tables(tuple(scale_table().tolist()))
    assert tables.cdf.shape == (64, 3133)
    assert hashlib.sha256(tables.cdf.astype("<i4").tobytes()).hexdigest() == GAUSSIAN_TABLE
    centres = -tables.offsets
    assert (tables.lengths == 2 * centres + 3).all()


def test_scales_choose_the_first_table_that_is_not_below_them() -> None:
    model = GaussianConditional()
    model.update()
    table = model.scale_table
    above = torch.nextafter(table[3], torch.tensor(99.0))
    scales = torch.cat([table, torch.tensor([0.0, -5.0, 0.11, 1e9, above])])
    expected = [*range(64), 0, 0, 0, 63, 4]
    assert model.build_indexes(scales).tolist() == expected
    assert model.build_indexes(scales.double()).tolist() == expected


def test_gaussian_likelihoods_are_masses_of_steps() -> None:
    model = GaussianConditional().eval()
    x, scales, means = torch.randn(2, 3, 4, 4) * 3, torch.rand(2, 3, 4, 4) * 4 + 0.2, torch.randn(2, 3, 4, 4)
    rounded, likelihoods = model(x, scales, means)
    assert torch.equal(rounded, (x - means).round() + means)
    normal = torch.distributions.Normal(0.0, scales.double())
    at = (rounded - means).double()
    assert torch.allclose(likelihoods.double(), (normal.cdf(at + 0.5) - normal.cdf(at - 0.5)).clamp(1e-9), atol=1e-6)
    noisy, _ = model(x, scales, means, training=True)
    assert 0.3 < (noisy - x).abs().max() <= 0.5


def test_gaussian_streams_there_and_back() -> None:
    model = GaussianConditional([0.2, 1.0, 30.0])
    model.update()
    scales, means = torch.rand(3, 2, 5, 5) * 20, torch.randn(3, 2, 5, 5) * 9
    x, indexes = means + torch.randn(3, 2, 5, 5) * scales, model.build_indexes(scales)
    strings = model.compress(x, indexes, means)
    assert len(strings) == 3
    assert torch.equal(model.decompress(strings, indexes, means), (x - means).round() + means)
    with pytest.raises(ChunkError):
        model.decompress(strings[:2], indexes, means)


def test_bottleneck_streams_there_and_back(bottleneck: EntropyBottleneck) -> None:
    bottleneck.update()
    x = torch.randn(4, 5, 3, 2) * 30
    strings = bottleneck.compress(x)
    rounded, likelihoods = bottleneck(x)
    assert torch.equal(bottleneck.decompress(strings, (3, 2)), rounded)
    assert likelihoods.shape == x.shape
    assert torch.equal(bottleneck.decompress(bottleneck.compress(x[:, :, 0, 0]), ()), rounded[:, :, 0, 0])
    bits = -likelihoods.log2().sum()
    inside = bottleneck.compress(x.clamp(-8, 8))
    estimate = -bottleneck(x.clamp(-8, 8))[1].log2().sum()
    assert abs(8 * sum(map(len, inside)) - estimate) < 0.05 * bits + 4 * 96


def test_bottleneck_likelihoods_are_those_of_its_tables(bottleneck: EntropyBottleneck) -> None:
    bottleneck.update()
    tables = bottleneck.tables
    for channel in range(5):
        counts = np.diff(tables.cdf[channel, : tables.lengths[channel]])[:-1]
        steps = torch.arange(len(counts)) + tables.offsets[channel] + bottleneck.medians[channel]
        x = torch.zeros(1, 5, len(counts))
        x[0, channel] = steps
        masses = bottleneck(x)[1][0, channel].detach().numpy()
        assert np.abs(masses / masses.sum() - counts / counts.sum()).max() < 2e-4


def test_noise_while_training_and_its_gradient(bottleneck: EntropyBottleneck) -> None:
    bottleneck.train()
    x = torch.randn(2, 5, 8, 8, requires_grad=True)
    noisy, likelihoods = bottleneck(x)
    assert 0.4 < (noisy - x).abs().max() <= 0.5
    likelihoods.log().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    assert all(p.grad is not None for name, p in bottleneck.named_parameters() if name != "quantiles")


def test_the_auxiliary_loss_moves_the_quantiles_alone(bottleneck: EntropyBottleneck) -> None:
    optimizer = torch.optim.Adam([bottleneck.quantiles], 1.0)
    losses = []
    for _ in range(500):
        loss = bottleneck.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert all(p.grad is None for name, p in bottleneck.named_parameters() if name != "quantiles")
    with torch.no_grad():
        mass = torch.sigmoid(bottleneck._logits(bottleneck.quantiles))
    assert bool((mass[:, 0, 0] < 1e-6).all())
    assert bool(((mass[:, 0, 1] - 0.5).abs() < 0.1).all())


def test_tables_are_made_once_unless_forced(bottleneck: EntropyBottleneck) -> None:
    with pytest.raises(ConfigError, match=r"update\(\)"):
        bottleneck.compress(torch.zeros(1, 5, 1, 1))
    assert bottleneck.update()
    assert not bottleneck.update()
    before = bottleneck._quantized_cdf.clone()
    with torch.no_grad():
        bottleneck.quantiles[:, 0, 2] += 7
    assert bottleneck.update(force=True)
    assert bottleneck._quantized_cdf.shape[1] > before.shape[1]
    assert len(bottleneck.tables.cdf[0]) == bottleneck._quantized_cdf.shape[1]


def test_checkpoints_of_both_generations_load(bottleneck: EntropyBottleneck) -> None:
    bottleneck.update()
    state = bottleneck.state_dict()
    later = {}
    for key, x in state.items():
        for old, new in (("_matrix", "matrices."), ("_bias", "biases."), ("_factor", "factors.")):
            if key.startswith(old):
                later[new + key.removeprefix(old)] = x
                break
        else:
            later[key] = x
    for weights in (state, later):
        loaded = EntropyBottleneck(5)
        loaded.load_state_dict(weights)
        assert all(torch.equal(x, state[key]) for key, x in loaded.state_dict().items())
    assert "matrices.0" in later  # the caller's is left as it was


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_values_that_are_no_latents_are_refused(bottleneck: EntropyBottleneck, bad: float) -> None:
    bottleneck.update()
    with pytest.raises(ConfigError):
        bottleneck.compress(torch.full((1, 5, 1, 1), bad))


def test_quantiles_that_ran_away_are_refused(bottleneck: EntropyBottleneck) -> None:
    with torch.no_grad():
        bottleneck.quantiles[0, 0, 2] = 1e6
    with pytest.raises(ConfigError, match="aux_loss"):
        bottleneck.update()


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_its_formula(inverse: bool) -> None:
    gdn, x = GDN(3, inverse), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        gdn.gamma += torch.rand(3, 3)
        gdn.beta += torch.rand(3)
    beta = gdn.beta.clamp(min=(1e-6 + 2**-36) ** 0.5) ** 2 - 2**-36
    gamma = gdn.gamma.clamp(min=2**-18) ** 2 - 2**-36
    norm = beta[:, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x**2)
    assert torch.allclose(gdn(x), x * norm**0.5 if inverse else x / norm**0.5, atol=1e-6)


def test_a_bound_lets_gradients_pass_that_lead_back() -> None:
    x = torch.tensor([0.0, 0.0, 2.0, 2.0], requires_grad=True)
    y = LowerBound(1.0)(x)
    assert y.tolist() == [1, 1, 2, 2]
    y.backward(torch.tensor([1.0, -1.0, 1.0, -1.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, -1, 1, -1]


def test_a_checkerboard_sees_the_other_colour_only() -> None:
    mask = CheckerboardConv(2, 3).mask
    rows, columns = np.indices((5, 5))
    assert (mask.numpy() == ((rows + columns) % 2)).all()
    assert mask.shape == (3, 2, 5, 5)
    assert mask[0, 0, 2, 2] == 0
