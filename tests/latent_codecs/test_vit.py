import copy
import json
from pathlib import Path

import pytest
import torch
from tests.latent_codecs.tiny import CTX, DIM, context, one_of, tokens, vit, vit_with_ctx

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs import VitUnionLatentCodec, VitUnionLatentCodecWithCtx
from flowerpress.latent_codecs.checkerboard import groups_of

STATES = Path(__file__).parents[1] / "golden" / "state_dicts"
TABLES = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
GRIDS = [(16, 16), (14, 14), (37, 37), (15, 16), (16, 15), (12, 12), (20, 24), (1, 1), (1, 5), (3, 2)]


def listed(model: torch.nn.Module) -> list[str]:
    shapes = ((key, x.dtype, "x".join(map(str, x.shape))) for key, x in model.state_dict().items())
    return [f"{key} {str(dtype).removeprefix('torch.')} {shape or '-'}" for key, dtype, shape in shapes]


@pytest.mark.parametrize(
    ("cls", "name"), [(VitUnionLatentCodec, "vit-union"), (VitUnionLatentCodecWithCtx, "vit-union-with-ctx")]
)
def test_state_dicts_have_the_published_keys_shapes_and_order(cls: type, name: str) -> None:
    model = cls()
    expected = (STATES / f"{name}.txt").read_text().splitlines()
    assert listed(model) == expected
    assert sum(p.numel() for p in model.parameters()) == {"vit-union": 48_603_584}.get(name, 60_255_168)
    model.update()
    sizes = {"_offset": "64", "_quantized_cdf": "64x3133", "_cdf_length": "64", "scale_table": "64"}
    of_z = {"_offset": "192", "_quantized_cdf": "192x23", "_cdf_length": "192"}
    for line, before in zip(listed(model), expected, strict=True):
        key, dtype, shape = before.split()
        leaf = key.rpartition(".")[2]
        known = of_z if "entropy_bottleneck" in key else sizes
        assert line == f"{key} {dtype} {known[leaf] if leaf in TABLES else shape}"


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_any_grid_and_any_prefix(grid: tuple[int, int], prefix: int) -> None:
    model = vit(num_prefix_tokens=prefix)
    h = tokens(2, grid, prefix)
    with torch.no_grad():
        out = model(h, grid)
    assert out["h_hat"].shape == h.shape
    size = (-(-grid[0] // 2), -(-grid[1] // 2))
    assert out["likelihoods"]["y"].shape == (2, 12, *size)
    packed = model.compress(h, grid)
    assert packed["pstate"]["token_res"] == grid
    assert packed["pstate"]["y_shape"] == [(4, *size)] * 3
    assert [len(streams) for streams in packed["strings"]["y"]] == [2] * 6
    assert [len(streams) for streams in packed["strings"]["z"]] == [2]
    found = model.decompress(**packed)
    assert set(found) == {"h_hat"}
    assert (found["h_hat"] - out["h_hat"]).abs().median() < 0.01  # a value on the edge of a step may fall either way
    assert found["h_hat"].dtype == torch.float32


def test_defaults_are_the_seeds() -> None:
    model = VitUnionLatentCodec()
    assert (model.num_prefix_tokens, model.y_lc.groups, model.exact) == (1, (16,) * 16, True)
    model.update()
    h = torch.randn(2, 257, 384)
    packed = model.compress(h, (16, 16), anything="else")
    assert len(packed["strings"]["y"]) == 32
    assert len(packed["strings"]["z"]) == 1
    assert model.decompress(**packed, anything="else")["h_hat"].shape == (2, 257, 384)
    wider = VitUnionLatentCodecWithCtx(unused=3)
    assert wider.f_ctx_down.weight.shape == (256, 256, 3, 3)


def test_training_has_gradients_everywhere() -> None:
    for model, extra in ((vit(), ()), (vit_with_ctx(), (context(2, (6, 6)),))):
        model.train()
        out = model(tokens(2, (6, 6)), *extra, (6, 6))
        rate = sum(-x.log2().sum() for x in out["likelihoods"].values())
        (out["h_hat"].square().mean() + 0.001 * rate).backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None]
        assert silent == ["hyper_lc.entropy_bottleneck.quantiles"]


@pytest.mark.parametrize("grid", [(16, 16), (7, 5)], ids=str)
def test_likelihoods_say_how_long_streams_are(grid: tuple[int, int]) -> None:
    model, h = vit(), tokens(4, grid)
    with torch.no_grad():
        likelihoods = model(h, grid)["likelihoods"]
    packed = model.compress(h, grid)["strings"]
    for name in ("y", "z"):
        bits = -likelihoods[name].log2().sum().item()
        streams = [s for streams in packed[name] for s in streams]
        assert bits * 0.97 - 32 * len(streams) < 8 * sum(map(len, streams)) < bits * 1.03 + 64 * len(streams)


def test_batches_and_items_are_one() -> None:
    grid, model = (14, 14), vit()
    h = tokens(8, grid)
    whole = model.compress(h, grid)
    together = model.decompress(**whole)["h_hat"]
    singles = [model.compress(item[None], grid) for item in h]
    for i, single in enumerate(singles):
        assert one_of(whole["strings"], i) == single["strings"]
        assert [whole["pstate"]["checksums"][i]] == single["pstate"]["checksums"]
        alone = model.decompress(one_of(whole["strings"], i), whole["pstate"])["h_hat"]
        assert (alone[0] - together[i]).abs().max() < 1e-4
    merged = {
        name: [[s["strings"][name][k][0] for s in singles] for k in range(len(lists))]
        for name, lists in whole["strings"].items()
    }
    pstate = {**whole["pstate"], "checksums": [c for s in singles for c in s["pstate"]["checksums"]]}
    assert torch.allclose(model.decompress(merged, pstate)["h_hat"], together, atol=1e-4)


@pytest.mark.parametrize("exact", [True, False])
def test_threads_and_autocast_change_no_stream(exact: bool) -> None:
    """Of a network this small, not even in float32."""
    grid, model, before = (9, 12), vit(exact=exact), torch.get_num_threads()
    h = tokens(3, grid)
    expected = model.compress(h, grid)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert model.compress(h, grid) == expected
            with torch.autocast("cpu", torch.bfloat16):
                assert model.compress(h, grid) == expected
                assert bool(model.decompress(**expected)["h_hat"].isfinite().all())
    finally:
        torch.set_num_threads(before)


def test_the_side_information_is_json() -> None:
    model, h = vit(), tokens(2, (6, 8))
    packed = model.compress(h, (6, 8))
    again = json.loads(json.dumps(packed["pstate"]))
    assert torch.equal(model.decompress(packed["strings"], again)["h_hat"], model.decompress(**packed)["h_hat"])


def test_a_context_conditions_both_ends() -> None:
    grid, model = (10, 7), vit_with_ctx()
    h, ctx = tokens(2, grid), context(2, grid)
    packed = model.compress(h, ctx, grid)
    found = model.decompress(**packed, ctx=ctx)
    with torch.no_grad():
        out = model(h, ctx, grid)
    assert set(out) == {"h_hat", "h_hat_share", "likelihoods"}
    assert set(found) == {"h_hat", "h_hat_share"}
    for name in found:
        assert found[name].shape == out[name].shape
        assert (found[name] - out[name]).abs().median() < 0.01
    assert found["h_hat_share"].shape == (2, DIM, *grid)
    with pytest.raises(ChunkError):
        model.decompress(**packed, ctx=context(2, grid, seed=2))
    single = model.decompress(one_of(packed["strings"], 1), packed["pstate"], ctx[1:])
    assert torch.allclose(single["h_hat"][0], found["h_hat"][1], atol=1e-4)


@pytest.mark.parametrize("make", [vit, vit_with_ctx])
def test_streams_of_the_float_path_need_the_option(make) -> None:
    grid = (6, 6)
    h, ctx = tokens(2, grid), [context(2, grid)] if make is vit_with_ctx else []
    floats, exact = make(exact=False), make()
    packed = floats.compress(h, *ctx, grid)
    assert floats.decompress(**packed, **_named(ctx))["h_hat"].shape == h.shape
    with pytest.raises(ChunkError, match="exact"):
        exact.decompress(**packed, **_named(ctx))
    foreign = {name: x for name, x in packed["pstate"].items() if name not in ("exact", "checksums")}
    assert floats.decompress(packed["strings"], foreign, **_named(ctx))["h_hat"].shape == h.shape
    with pytest.raises(ChunkError, match="exact=False"):
        exact.decompress(exact.compress(h, *ctx, grid)["strings"], foreign, **_named(ctx))


def _named(ctx: list) -> dict:
    return {"ctx": ctx[0]} if ctx else {}


def test_streams_of_other_weights_are_errors() -> None:
    packed = vit().compress(tokens(1, (6, 6)), (6, 6))
    with pytest.raises(ChunkError):
        vit(seed=1).decompress(**packed)
    close = vit()
    with torch.no_grad():
        close.y_lc.latent_codec["y1"].entropy_parameters[0].bias.add_(0.05)
    with pytest.raises(ChunkError):
        close.decompress(**packed)


def test_checkpoints_load_under_all_names() -> None:
    model = vit_with_ctx()
    state = model.state_dict()
    old = {}
    for key, x in state.items():
        for ours, theirs in (
            ("hyper_lc.", "latent_codec.hyper."),
            ("y_lc.", "latent_codec.y."),
            ("cond_enc.", "mp12_enc."),
            ("cond_dec.", "dec2."),
            ("f_ctx_down.", "vqgan_down."),
        ):
            if key.startswith(ours):
                key = theirs + key.removeprefix(ours)
        key = key.replace("entropy_bottleneck._matrix", "entropy_bottleneck.matrices.")
        old["dino_codec." + key] = x
    for found in (state, old, {"state_dict": {**old, "backbone.weight": torch.zeros(3)}}):
        loaded = VitUnionLatentCodecWithCtx.from_state_dict(found)
        assert all(torch.equal(x, state[key]) for key, x in loaded.state_dict().items())
        fresh = VitUnionLatentCodecWithCtx(DIM, 12, 8, CTX, 4)
        fresh.load_state_dict(found)
        h, ctx = tokens(1, (6, 6)), context(1, (6, 6))
        assert fresh.compress(h, ctx, (6, 6)) == model.compress(h, ctx, (6, 6))
    for bad in ({}, {"post_reg_tokens": torch.zeros(1, DIM)}, {**state, "post_reg_tokens": torch.zeros(1, 8)}):
        with pytest.raises(ConfigError, match="weights"):
            VitUnionLatentCodecWithCtx.from_state_dict(bad)


def test_groups_are_a_size_or_any_sequence() -> None:
    assert groups_of(48, 16) == (16, 16, 16)
    for groups in ([4, 8], (4, 8), range(4, 9, 4), torch.tensor([4, 8])):
        assert vit(groups=groups).y_lc.groups == (4, 8)
    for groups in (5, 0, -4, 24, [4, 4], [], [16, -4], True):
        with pytest.raises(ConfigError, match="groups"):
            vit(groups=groups)


def test_narrow_tokens_have_one_head() -> None:
    assert vit().pre_vit_blocks[0].attn.heads == 1
    assert VitUnionLatentCodec(128, 8, 8, 4).pre_vit_blocks[0].attn.heads == 2


@pytest.mark.parametrize("res", [(6, 7), (36,), (6, 6, 1), (0, 6), (-6, -6)], ids=str)
def test_tokens_that_make_no_grid_are_refused(res: tuple) -> None:
    for call in (vit().compress, vit().forward):
        with pytest.raises(ConfigError, match="tokens"):
            call(tokens(1, (6, 6)), res)


def test_tokens_of_another_kind_are_refused() -> None:
    model, h = vit(), tokens(2, (6, 6))
    for bad in (h[:0], h[0], h[:, :, :8], h[:, 1:], torch.full_like(h, float("nan"))):
        with pytest.raises(ConfigError):
            model.compress(bad, (6, 6))
    fresh = VitUnionLatentCodec(DIM, 12, 8, 4)
    with pytest.raises(ConfigError, match=r"update\(\)"):
        fresh.compress(h, (6, 6))
    for bad in (context(1, (6, 6)), context(2, (3, 3)), context(2, (6, 6))[:, 1:], None):
        with pytest.raises(ConfigError, match="context"):
            vit_with_ctx().compress(h, bad, (6, 6))


def test_hostile_streams_and_side_information_are_errors() -> None:
    model = vit()
    packed = model.compress(tokens(2, (6, 6)), (6, 6))
    strings, pstate = packed["strings"], packed["pstate"]
    for bad in (
        None,
        [],
        {},
        {"y": strings["y"]},
        {"y": strings["y"][1:], "z": strings["z"]},
        {"y": strings["y"], "z": [strings["z"][0][:1]]},
        {"y": [["text"] * 2] * 6, "z": strings["z"]},
        {"y": [[b""] * 2] * 6, "z": strings["z"]},
        {"y": [[]] * 6, "z": [[]]},
        {"y": b"bytes!", "z": strings["z"]},
        {"y": [strings["y"][0][::-1], *strings["y"][1:]], "z": strings["z"]},
    ):
        with pytest.raises(ChunkError):
            model.decompress(bad, pstate)
    for change in (
        {"token_res": (10**6, 10**6)},
        {"token_res": (512, 512)},
        {"token_res": (6, 7)},
        {"token_res": (-6, -6)},
        {"token_res": (6.0, 6.0)},
        {"token_res": None},
        {"y_shape": [(4, 3, 4)] * 3},
        {"z_shape": (2, 1)},
        {"y_pad": 7},
        {"checksums": []},
        {"checksums": None},
        {"checksums": 5},
        {"checksums": ["0" * 16] * 2},
        {"exact": False},
    ):
        with pytest.raises(ChunkError):
            model.decompress(strings, {**pstate, **change})
    for bad in (None, [], "pstate", {}):
        with pytest.raises(ChunkError):
            model.decompress(strings, bad)


def test_models_are_copied_and_saved_like_others(tmp_path: Path) -> None:
    model, h = vit(), tokens(1, (6, 6))
    packed = model.compress(h, (6, 6))
    assert copy.deepcopy(model).compress(h, (6, 6)) == packed
    torch.save(model.state_dict(), tmp_path / "codec.pth")
    loaded = VitUnionLatentCodec.from_state_dict(torch.load(tmp_path / "codec.pth", weights_only=True))
    assert loaded.compress(h, (6, 6)) == packed
    assert model.aux_loss() > 0


@pytest.mark.parametrize("make", [vit, vit_with_ctx])
def test_a_codec_of_variable_rate(make) -> None:
    """Latents are scaled by a row of a table before they are coded, and by one of another behind it."""
    grid, model = (6, 6), make(rates=3)
    h, ctx = tokens(2, grid), [context(2, grid)] if make is vit_with_ctx else []
    with torch.no_grad():
        for row, scale in enumerate((0.25, 1.0, 4.0)):
            model.q_scale_enc[row], model.q_scale_dec[row] = scale, 1 / scale
    plain = make()
    plain.load_state_dict({key: x for key, x in model.state_dict().items() if not key.startswith("q_scale")})
    sizes = []
    for qp in range(3):
        packed = model.compress(h, *ctx, grid, qp=qp)
        assert packed["pstate"]["qp"] == qp
        found = model.decompress(**packed, **_named(ctx))["h_hat"]
        with torch.no_grad():
            assert (found - model(h, *ctx, grid, qp=qp)["h_hat"]).abs().median() < 0.01
        sizes.append(sum(len(s) for streams in packed["strings"]["y"] for s in streams))
        if qp == 1:
            assert packed["strings"] == plain.compress(h, *ctx, grid)["strings"]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    loaded = type(model).from_state_dict({f"dino_codec.{key}": x for key, x in model.state_dict().items()})
    assert loaded.compress(h, *ctx, grid, qp=0) == model.compress(h, *ctx, grid, qp=0)
    for bad in (None, -1, 3, 1.0, True):
        with pytest.raises(ConfigError, match="qp from 0 to 2"):
            model.compress(h, *ctx, grid, qp=bad)
        with pytest.raises(ChunkError, match="qp from 0 to 2"):
            model.decompress(packed["strings"], {**packed["pstate"], "qp": bad}, **_named(ctx))
    with pytest.raises(ConfigError, match="one rate"):
        plain.compress(h, *ctx, grid, qp=1)
