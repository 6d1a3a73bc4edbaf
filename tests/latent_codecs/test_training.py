import pytest
import torch

from flowerpress.errors import ConfigError
from flowerpress.latent_codecs import FeatureScaleHyperprior, VitUnionLatentCodec
from flowerpress.latent_codecs.coding import Encoding
from flowerpress.latent_codecs.streams import Together
from flowerpress.latent_codecs.training import Aim, finish, measure, train


def correlated(items: int, seed: int = 0) -> torch.Tensor:
    """Return tokens of a 4x4 grid that are few directions of many channels."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(9))
    return torch.randn(items, 1, 3, generator=generator) @ directions + torch.zeros(items, 16, 32)


def small() -> VitUnionLatentCodec:
    torch.manual_seed(0)
    return VitUnionLatentCodec(32, 8, 8, 4, num_prefix_tokens=0)


def test_training_lowers_rate_and_distortion_and_streams_agree() -> None:
    model, features = small(), correlated(64)
    held_out = correlated(40, seed=1)
    aim = Aim(20.0)
    before = measure(model, held_out, aim, (4, 4))
    epochs = []
    loss = train(
        model,
        features,
        epochs=20,
        batch_size=16,
        learning_rate=3e-3,
        aim=aim,
        seed=0,
        grid=(4, 4),
        fall=(0, 1),
        on_epoch=lambda epoch, mean: epochs.append((epoch, mean)),
    )
    after = measure(model, held_out, aim, (4, 4))
    assert after.distortion < 0.5 * before.distortion
    assert aim.whole(after) < 0.5 * aim.whole(before)
    assert [epoch for epoch, _ in epochs] == list(range(20))
    assert epochs[-1][1] == loss < epochs[0][1]
    finish(model)
    packed = model.compress(held_out, (4, 4))
    found = model.decompress(**packed)["h_hat"]
    assert abs((found - held_out).square().mean() - after.distortion) < 0.05 * after.distortion
    stream = Together()
    model.encode(Encoding(stream, exact=True), held_out, None, (4, 4))
    assert abs(8 * len(stream.finish()) / held_out.numel() - after.rate) < 0.05 * after.rate
    masses = torch.sigmoid(model.hyper_lc.entropy_bottleneck._logits(model.hyper_lc.entropy_bottleneck.quantiles))
    assert float(masses[:, 0, 0].detach().max()) < 1e-6


def test_equal_seeds_train_equal_codecs() -> None:
    models = [small(), small()]
    for model in models:
        torch.manual_seed(1)
        train(model, correlated(20), epochs=2, batch_size=8, learning_rate=1e-3, aim=Aim(), seed=4, grid=(4, 4))
    states = [model.state_dict() for model in models]
    assert all(torch.equal(x, states[1][key]) for key, x in states[0].items())


def test_planes_are_trained_like_tokens() -> None:
    torch.manual_seed(0)
    model, planes = FeatureScaleHyperprior(6, 8), torch.rand(6, 1, 64, 64)
    aim = Aim(50.0)
    before = measure(model, planes, aim)
    train(model, planes, epochs=12, batch_size=3, learning_rate=3e-3, aim=aim, seed=0)
    assert aim.whole(measure(model, planes, aim)) < aim.whole(before)
    finish(model)
    assert model.decompress(**model.compress(planes))["x_hat"].shape == planes.shape


def test_a_cost_is_rate_error_and_what_a_head_says() -> None:
    model, h = small().eval(), correlated(3)
    torch.manual_seed(2)
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 32, 5))
    aim = Aim(7.0, head, 0.5)
    with torch.no_grad():
        cost, out = aim.cost(model, h, (4, 4)), model(h, (4, 4))
        bits = sum(-x.log2().sum() for x in out["likelihoods"].values())
        p, q = head(h).softmax(1), head(out["h_hat"]).softmax(1)
    assert cost.rate == pytest.approx(float(bits) / h.numel())
    assert cost.distortion == pytest.approx(float((out["h_hat"] - h).square().mean()))
    assert cost.divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert aim.whole(cost) == pytest.approx(float(cost.rate + 7 * (cost.distortion + 0.5 * cost.divergence)))
    with torch.no_grad():
        assert Aim(7.0).cost(model, h, (4, 4)).divergence == 0


def test_what_cannot_be_trained_on_is_refused() -> None:
    options = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "aim": Aim(), "seed": 0}
    with pytest.raises(ConfigError, match="none"):
        train(small(), correlated(4)[:0], grid=(4, 4), **options)
    with pytest.raises(ConfigError, match="grid"):
        train(small(), correlated(4), **options)
    with pytest.raises(ConfigError, match="tokens"):
        train(small(), correlated(4), grid=(3, 4), **options)
