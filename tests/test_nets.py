"""The networks: counts, blocks against independent references, frozen encoder, roll-outs."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import expit

from pipeline.nets.blocks import ConvGRU, LateralBlock, LocationConv
from pipeline.nets.encoder import TAPS, Encoder, load_weights
from pipeline.nets.rollout import predict
from pipeline.variants import full_res, lvln
from tests.support.nets import VARIANTS, small


def count(net: torch.nn.Module, *, trainable: bool) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trainable)


def test_parameter_counts_are_the_reports() -> None:
    """Counted once by instantiating the lab's own classes."""
    ladder = lvln.build(lvln.Config(64, "bilinear"), Encoder(), height=128, width=160)
    assert count(ladder, trainable=True) == 26_438_387
    assert count(ladder, trainable=False) == 37_614_899
    full = full_res.build(full_res.Config(64), Encoder(), height=64, width=96)
    assert count(full, trainable=True) == 19_083_139
    assert count(full, trainable=False) == 30_259_651
    assert count(Encoder(), trainable=False) == 11_176_512
    assert count(Encoder(), trainable=True) == 0


def test_pixel_shuffle_adds_only_its_own_outputs() -> None:
    counts = {
        up: count(lvln.build(lvln.Config(64, up), Encoder(), height=128, width=160), trainable=True)
        for up in ("pixel_shuffle", "bilinear", "nearest")
    }
    assert counts["nearest"] == counts["bilinear"]
    assert counts["pixel_shuffle"] - counts["bilinear"] == 9 * (320 + 1)  # 12 outputs instead of 3


def test_feature_counts_of_the_report() -> None:
    net = lvln.build(lvln.Config(64, "bilinear"), Encoder(), height=128, width=160).eval()
    with torch.no_grad():
        _, states = net(torch.rand(1, 3, 128, 160))
    sizes = [sum(h[0].numel() for h in hidden) for hidden in states.values()]
    assert sizes[-1] == 15_360
    assert sum(sizes[:-1]) == 128 * 10_080


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("context", [1, 3, 9])
def test_any_context_and_any_horizon(name: str, context: int) -> None:
    net = small(name).eval()
    with torch.no_grad():
        for horizon in (1, 4):
            predictions, _ = predict(net, torch.rand(2, context, 3, 32, 64), horizon=horizon, clip_feedback=True)
            assert predictions.shape == (2, horizon, 3, 32, 64)
            assert predictions.isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("clip_feedback", [True, False])
def test_rolling_out_is_appending_predictions_to_the_context(name: str, clip_feedback: bool) -> None:
    """The report's one-frame routine: append the prediction to the context, start again, predict one more."""
    net = small(name).eval()
    context = torch.rand(2, 3, 3, 32, 64) * 3 - 1  # wide, so that clipping matters
    with torch.no_grad():
        rolled, _ = predict(net, context, horizon=3, clip_feedback=clip_feedback)
        grown, expected = context, []
        for _ in range(3):
            nxt, _ = predict(net, grown, horizon=1, clip_feedback=clip_feedback)
            expected.append(nxt[:, 0])
            fed = nxt.clamp(0, 1) if clip_feedback else nxt
            grown = torch.cat([grown, fed], 1)
    torch.testing.assert_close(rolled, torch.stack(expected, 1), rtol=1e-4, atol=1e-5)


def test_order_of_the_context_matters_and_batch_members_do_not_mix() -> None:
    net = small("lvln").eval()
    context = torch.rand(2, 3, 3, 32, 64)
    with torch.no_grad():
        together, _ = predict(net, context, horizon=2, clip_feedback=True)
        alone, _ = predict(net, context[1:], horizon=2, clip_feedback=True)
        reversed_, _ = predict(net, context.flip(1), horizon=2, clip_feedback=True)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together, reversed_, atol=1e-3)


@pytest.mark.parametrize(("context", "horizon", "message"), [((2, 0), 1, "context"), ((2, 3), 0, "horizon")])
def test_predict_refuses_what_it_cannot_do(context: tuple[int, int], horizon: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(small("lvln"), torch.rand(*context, 3, 32, 64), horizon=horizon, clip_feedback=True)


def test_conv_gru_against_scipy() -> None:
    """One step of the ConvGRU's equations on concatenated maps, each convolution by scipy on numpy arrays."""
    gru = ConvGRU(2, 3, kernel=5).double()
    x, h = torch.randn(1, 2, 6, 7).double(), torch.randn(1, 3, 6, 7).double()
    from_input, bias = gru.from_input.weight.detach().numpy(), gru.from_input.bias.detach().numpy()
    from_state = torch.cat([gru.gates.weight, gru.candidate.weight]).detach().numpy()
    kernels = np.concatenate([from_input, from_state], axis=1)  # (z, r, n) × [x, h]

    def conv(outputs: slice, maps: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                offset + sum(correlate2d(maps[i], kernel[i], mode="same") for i in range(len(maps)))
                for kernel, offset in zip(kernels[outputs], bias[outputs], strict=True)
            ]
        )

    def step(xs: np.ndarray, hs: np.ndarray) -> np.ndarray:
        z, r = (expit(conv(gate, np.concatenate([xs, hs]))) for gate in (slice(0, 3), slice(3, 6)))
        n = np.tanh(conv(slice(6, 9), np.concatenate([xs, r * hs])))
        return (1 - z) * hs + z * n

    projected = gru.from_input(x)
    for state in (h, torch.zeros_like(h)):
        expected = step(x[0].numpy(), state[0].numpy())
        np.testing.assert_allclose(gru(projected, state)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(gru(projected, None)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_conv_gru_is_initialised_as_one_convolution_over_both() -> None:
    gru = ConvGRU(24, 8, kernel=7)
    whole = torch.nn.Conv2d(32, 24, 7)
    for part in (gru.from_input.weight, gru.gates.weight, gru.candidate.weight):
        assert float(part.detach().abs().max()) == pytest.approx(float(whole.weight.detach().abs().max()), rel=0.01)
        assert float(part.detach().std()) == pytest.approx(float(whole.weight.detach().std()), rel=0.05)
    assert float(gru.from_input.bias.detach().abs().max()) <= float(whole.weight.detach().abs().max()) * 1.01


def test_location_conv_by_hand() -> None:
    conv = LocationConv(2, 4, height=3, width=5)
    assert not conv.bias_map.any()  # zero at first: a plain convolution
    x = torch.randn(2, 2, 3, 5)
    torch.testing.assert_close(conv(x), conv.conv(x))
    with torch.no_grad():
        conv.bias_map.copy_(torch.randn(3, 5, 3))
    extra = (conv(x) - conv.conv(x)).detach()
    for row in range(3):
        for column in range(5):
            b = conv.bias_map[row, column].detach()
            expected = b[0] * (column / 4) + b[1] * (row / 2) + b[2]  # ramps 0 … 1 on both axes
            assert torch.allclose(extra[:, :, row, column], expected.expand(2, 4), atol=1e-5)


def test_lateral_block_carries_the_tap_past_the_memory() -> None:
    block = LateralBlock(8, 4, height=6, width=6, location=True)
    x = torch.randn(2, 8, 6, 6)
    projected = block.project(x)
    hidden = block(projected, None)
    assert [h.shape for h in hidden] == 3 * [(2, 4, 6, 6)]
    point, *rest = block.features(x, hidden)
    torch.testing.assert_close(point, block.point(x))
    torch.testing.assert_close(tuple(rest), hidden)
    zeros = tuple(map(torch.zeros_like, hidden))
    torch.testing.assert_close(block(projected, zeros), hidden)  # the initial state is zero
    assert not torch.allclose(block(projected, hidden)[0], hidden[0])


def test_encoder_taps_match_their_description() -> None:
    encoder = Encoder()
    taps = encoder(torch.rand(2, 3, 64, 96))
    taps["layer4"] = encoder.deepest(taps["layer3"])
    assert {name: (tap.shape[1], 64 // tap.shape[2], 96 // tap.shape[3]) for name, tap in taps.items()} == {
        name: (tap.channels, tap.stride, tap.stride) for name, tap in TAPS.items()
    }


def test_encoder_equals_torchvisions_own_extractor() -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    encoder = Encoder()
    nodes = {"relu": "conv1", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"}
    resnet = encoder.resnet
    resnet.fc = torch.nn.Linear(512, 3)  # the tracer runs the whole network
    reference = create_feature_extractor(resnet.eval(), nodes)
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(rgb).view(3, 1, 1) for rgb in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = reference((images - mean) / std)
    taps = encoder(images)
    assert list(taps) == ["conv1", "layer1", "layer2", "layer3"]
    for name, tap in (taps | {"layer4": encoder.deepest(taps["layer3"])}).items():
        torch.testing.assert_close(tap, expected[name])


def test_fused_encoder_is_the_encoder() -> None:
    """Batch norms folded into the convolutions: equal up to rounding, gradients too; nothing of it is saved."""
    encoder = Encoder()
    load_weights(encoder, "random")
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    images = torch.rand(2, 3, 64, 64, requires_grad=True)

    def outputs() -> list[torch.Tensor]:
        taps = encoder(images)
        taps["layer4"] = encoder.deepest(taps["layer3"])
        (gradient,) = torch.autograd.grad(sum(tap.square().mean() for tap in taps.values()), images)
        return [*taps.values(), gradient]

    expected = outputs()
    encoder.fuse(torch.float32)
    for got, tensor in zip(outputs(), expected, strict=True):
        assert float((got - tensor).norm() / tensor.norm()) < 1e-5
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in encoder._fused[0].modules()) == 0
    assert encoder.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    encoder.fuse(None)
    assert all(map(torch.equal, outputs(), expected))


@pytest.mark.parametrize("name", VARIANTS)
def test_frozen_means_frozen(name: str) -> None:
    """Training steps change the ladder and no number of the encoder, batch-norm statistics included."""
    net = small(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    assert not any(module.training for module in net.encoder.modules())
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(2):
        predictions, _ = predict(net, torch.rand(2, 2, 3, 32, 64), horizon=2, clip_feedback=True)
        optimizer.zero_grad()
        predictions.square().mean().backward()
        optimizer.step()
    after = net.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("encoder."))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    trainable = {key for key, parameter in net.named_parameters() if parameter.requires_grad}
    assert trainable <= changed


def test_gradients_reach_the_first_frame_and_flow_through_fed_back_predictions() -> None:
    net = small("lvln")
    context = torch.rand(1, 3, 3, 32, 64, requires_grad=True)
    decoded = []
    decode = net.decode
    net.decode = lambda *fed: decoded.append(decode(*fed)) or decoded[-1]
    predictions, _ = predict(net, context, horizon=2, clip_feedback=False)
    decoded[0].retain_grad()
    predictions[:, 1].sum().backward()
    assert all(context.grad[0, t].abs().sum() > 0 for t in range(3))
    assert decoded[0].grad.abs().sum() > 0  # prediction 1, only through being fed


def test_random_encoder_is_scaled_like_a_trained_one() -> None:
    """Without batch-norm statistics an untrained ResNet's activations grow from block to block."""
    encoder = Encoder()
    assert load_weights(encoder, "random")["weights"] == "random"
    first = {key: value.clone() for key, value in encoder.state_dict().items()}
    taps = encoder(torch.rand(4, 3, 64, 64))
    assert all(0.1 < float(tap.std()) < 10 for tap in (*taps.values(), encoder.deepest(taps["layer3"])))
    assert not any(module.training for module in encoder.modules())
    load_weights(encoder, "random")
    assert all(torch.equal(first[key], value) for key, value in encoder.state_dict().items())


def test_encoder_weights_from_a_file(tmp_path, monkeypatch) -> None:
    source = Encoder()
    state = {key: torch.full_like(value, 0.5) for key, value in source.resnet.state_dict().items()}
    torch.save(state | {"fc.weight": torch.zeros(3)}, tmp_path / "whole.pth")
    encoder = Encoder()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_weights(encoder, "~/whole.pth")["random_layers"] == []
    assert all((value == 0.5).all() for value in encoder.resnet.state_dict().values() if value.is_floating_point())

    partial = {key: value for key, value in state.items() if not key.startswith("layer4")}
    torch.save(partial, tmp_path / "partial.pth")
    encoder = Encoder()
    drawn = encoder.resnet.layer4[0].conv1.weight.clone()
    info = load_weights(encoder, str(tmp_path / "partial.pth"))
    assert info["random_layers"] == ["layer4"]
    assert len(info["sha256"]) == 64
    assert torch.equal(encoder.resnet.layer4[0].conv1.weight, drawn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.0.conv1.weight"), "incomplete layers.*layer2"),
        (lambda state: state.update(head=torch.zeros(1)), "unknown.*head"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), "do not fit"),
        (lambda state: state.clear(), "do not fit"),
    ],
)
def test_encoder_weights_that_do_not_fit_are_refused(tmp_path, change, message: str) -> None:
    state = Encoder().resnet.state_dict()
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=message):
        load_weights(Encoder(), str(tmp_path / "bad.pth"))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path) -> None:
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"is not a state dict saved with torch\.save"):
        load_weights(Encoder(), str(tmp_path / "page.pth"))


def test_missing_encoder_weights_say_what_to_do(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.pth cannot be read .*; give imagenet, random, or the path"):
        load_weights(Encoder(), str(tmp_path / "nowhere.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = "torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value.url"
    monkeypatch.setattr(url, "http://127.0.0.1:9/r18-f37072fd.pth", raising=False)
    with pytest.raises(ValueError, match=r"put that file at .*checkpoints.*or set train\.<model>\.encoder"):
        load_weights(Encoder(), "imagenet")


def test_same_seed_same_initial_weights() -> None:
    first, second = small("lvln"), small("lvln")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert math.isfinite(sum(float(p.detach().sum()) for p in first.parameters()))
