"""The fast training step against the plain one (benchmarks/plain.py): each lever by itself, and all together."""

from dataclasses import replace

import pytest
import torch

from benchmarks.cases import make_net
from benchmarks.plain import REPORT, PlainNet, plain_form, plain_loss, plain_losses
from benchmarks.train import flops_of_a_clip
from pipeline.training.losses import loss_per_image
from pipeline.training.step import DelayedMetrics, RolloutLoss
from tests.support.steps import LR, begin, case, clips, short


@pytest.mark.parametrize("model", REPORT)
@pytest.mark.parametrize("channels_last", [False, True])
def test_losses_and_gradients_are_the_plain_ones(model: str, channels_last: bool) -> None:
    """Batched encoding, joined gates, no step from the zero state, layer4 and 1×1 branch only where decoded: none of
    it changes a number but by rounding."""
    config = case(model)
    net = make_net(model, config)
    plain = PlainNet(net)
    net.train()
    if channels_last:
        net.to(memory_format=torch.channels_last)
    batch = clips(config)
    losses, expected = RolloutLoss(net, config)(batch), plain_losses(plain, batch, config)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    losses.mean().backward()
    expected.mean().backward()
    for block, grus in zip(net.lateral, plain.grus, strict=True):
        for gru, gates in zip(block.grus, grus, strict=True):
            joined = torch.cat([gates.z.weight.grad, gates.r.weight.grad, gates.n.weight.grad])
            from_input, from_state = joined.split([gru.from_input.in_channels, gru.channels], 1)
            close(gru.from_input.weight.grad, from_input)
            close(torch.cat([gru.gates.weight.grad, gru.candidate.weight.grad]), from_state)
            close(gru.from_input.bias.grad, torch.cat([gates.z.bias.grad, gates.r.bias.grad, gates.n.bias.grad]))
    for ours, theirs in ((net.bottom, plain.bottom), (net.decoder, plain.decoder), (net.head, plain.head)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            close(a.grad, b.grad)
    for block, point in zip(net.lateral, plain.points, strict=True):
        for (_, a), (_, b) in zip(
            sorted(block.point.named_parameters()), sorted(point.named_parameters()), strict=True
        ):
            close(a.grad, b.grad)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float((a - b).norm()) <= 1e-4 * float(b.norm()) + 1e-7


@pytest.mark.parametrize(
    ("model", "tolerance"),
    [
        ("lvln", 1e-4),
        ("one_frame", 1e-4),
        ("lvln_warp", 1e-3),
        pytest.param("lvln_match", 1e-3, marks=pytest.mark.slow),
        pytest.param("full_res", 5e-4, marks=pytest.mark.slow),
    ],
)
def test_the_loss_curve_is_the_plain_one(model: str, tolerance: float) -> None:
    """Some steps, each on other clips, with clipping and AdamW: the loop's step against PyTorch's defaults. Both in
    float32; tests/test_gpu.py compares bf16 with it."""
    config = short(case(model, size="64x64"))
    net = make_net(model, config)
    plain = plain_form(model, net)
    step = begin(net, config)
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=config.optimizer.weight_decay)
    losses = []
    for i in range(6):
        batch = clips(config, 2, seed=i)
        loss, norm = step(batch, lr=LR, clips_of_all=2).tolist()
        expected = plain_losses(plain, batch, config).mean()
        optimizer.zero_grad()
        expected.backward()
        expected_norm = torch.nn.utils.clip_grad_norm_(trained, config.optimizer.clip_norm)
        optimizer.step()
        assert loss == pytest.approx(float(expected.detach()), rel=tolerance)
        assert norm == pytest.approx(float(expected_norm), rel=100 * tolerance)
        losses.append(loss)
    assert min(losses[3:]) < losses[0]


WARPING = ("lvln_match", "lvln_warp")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        ("lvln", [(3, 1), (2, 1), (2, 2)]),
        ("one_frame", [(2, 1)]),
        ("full_res", [(2, 1)]),
        ("lvln_match", [(2, 1)]),
        ("lvln_warp", [(2, 1)]),
    ],
)
def test_the_rollout_loss_is_one_graph(model: str, shapes: list[tuple[int, int]]) -> None:
    """What torch.compile is given on a GPU: no graph break, for both batch sizes of an epoch and for frames that are
    stored larger; equal to the eager form. Traced here without generating code."""
    torch.compiler.reset()
    config = short(case(model, channels=8 if model in WARPING else 4))
    net = make_net(model, config).train()
    mask = None
    if model in WARPING:  # with all that training has for it
        config = replace(config, context_loss=0.5)
        mask = torch.rand(shapes[0][0], config.context + config.horizon) < 0.5
        torch.nn.init.normal_(net.head[-1].weight, std=0.02)  # zero at first, which would hide gradients
    net.encoder.fuse(torch.float32)
    rollout = RolloutLoss(net, config)
    traced = torch.compile(rollout, backend="aot_eager", fullgraph=True, dynamic=False)
    for count, scale in shapes:
        batch = clips(config, count, scale=scale)
        grads = []
        for form in (rollout, traced):
            net.zero_grad()
            losses = form(batch, mask)
            losses.mean().backward()
            grads.append([losses.detach(), *(p.grad.clone() for p in net.parameters() if p.requires_grad)])
        for a, b in zip(*grads, strict=True):
            close(a, b)


def test_compiled_gradients_of_the_loss_are_in_float32() -> None:
    """A compiled backward is traced under the forward's autocast unless told otherwise, as Step does."""
    config = case("lvln", size="64x64")
    assert begin(make_net("lvln", config), config, precision="bf16-mixed", compile=True).compiled
    target = torch.rand(2, 3, 64, 64)
    prediction = (target + 0.01 * torch.randn_like(target)).requires_grad_()

    def loss(prediction: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return loss_per_image(prediction, target, config.loss).mean()

    gradients = []
    for form in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16):
            value = form(prediction)
        gradients.append(torch.autograd.grad(value, prediction)[0])
    close(*gradients)


def test_graphs_are_refused_without_a_gpu() -> None:
    config = case("lvln")
    with pytest.raises(ValueError, match="graphs needs a single GPU without ddp"):
        begin(make_net("lvln", config), config, compile="graphs")


def test_numbers_are_read_in_order_however_late() -> None:
    metrics = DelayedMetrics(torch.device("cpu"))
    for lag in (0, 2):
        metrics.lag = lag
        seen = []
        for i in range(5):
            metrics.add(i, torch.tensor([float(i), -i]))
            seen += metrics.due()
            assert len(seen) == max(0, i + 1 - lag)
        seen += metrics.due(everything=True)
        assert seen == [(i, [i, -i]) for i in range(5)]


def test_validation_is_in_eval_mode_and_leaves_no_trace() -> None:
    config = case("lvln", size="64x64")
    net = make_net("lvln", config)
    step = begin(net, config, precision="bf16-mixed")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    together = step.evaluate(clips(config, 4))
    alone = torch.cat([step.evaluate(clip[None]) for clip in clips(config, 4)])
    torch.testing.assert_close(together, alone, rtol=1e-2, atol=1e-4)  # no statistics of the batch
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.training
    assert not net.encoder.training


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size", "table"), [("lvln", "128x160", 524), ("one_frame", "64x96", 135)])
def test_flops_are_those_of_the_table(model: str, size: str, table: float) -> None:
    """GFLOP of a clip, forward and backward, as once counted on the lab's own classes; to within 2 %."""
    found = flops_of_a_clip(model, case(model, size=size, channels=64))
    assert found["model"] / 1e9 == pytest.approx(table, rel=0.02)
    assert found["executed"] < found["model"] < found["plain"]


def test_plain_loss_is_none_of_ours() -> None:
    """The reference's SSIM filters by convolution; equal images have loss 0."""
    config = case("lvln")
    a = torch.rand(3, 3, 32, 64)
    assert plain_loss(a, a, config.loss).abs().max() < 1e-6
    assert (plain_loss(a, a.flip(3), config.loss) > 0.1).all()
