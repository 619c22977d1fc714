"""The ladder that moves pixels: what it makes of two frames against plain forms, where it starts, its choices, and how
it is fed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor, nn

from pipeline.evaluation.baselines import optical_flow
from pipeline.evaluation.metrics import nyquist_share
from pipeline.images import warp
from pipeline.nets.blocks import GROUPS, decoder_block, icnr_
from pipeline.nets.encoder import Encoder, load_weights
from pipeline.nets.flow import WindowMean, best_displacement, cost_volume, lucas_kanade, matched_flow, texture_filters
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict, predict_every_frame
from pipeline.variants import lvln_warp
from tests.support.nets import VARIANTS, small

CONFIG = VARIANTS["lvln_warp"][1]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def build(*, height: int = 32, width: int = 64, begun: bool = True, **changes: object) -> Ladder:
    """begun: as after some training, with a head that is no longer zero at its end."""
    net = lvln_warp.build(replace(CONFIG, **changes), Encoder(), height=height, width=width)
    if begun:
        nn.init.normal_(net.head[-1].weight, std=0.05)
        nn.init.normal_(net.head[-1].bias, std=0.5)
    return net


# --- warp ------------------------------------------------------------------------------------------------------------


def test_warp_is_scipys_interpolation() -> None:
    images = torch.rand(2, 3, 11, 17).double()
    flow = 6 * torch.randn(2, 2, 11, 17).double()  # far beyond the border too
    found = warp(images, flow)
    y, x = np.meshgrid(np.arange(11), np.arange(17), indexing="ij")
    for n, c in itertools.product(range(2), range(3)):
        there = [y + flow[n, 1].numpy(), x + flow[n, 0].numpy()]
        expected = map_coordinates(images[n, c].numpy(), there, order=1, mode="nearest")
        np.testing.assert_allclose(found[n, c].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (3, 0), (0, -2), (-4, 5)])
def test_warp_by_whole_pixels_moves_them(dx: int, dy: int) -> None:
    images = torch.rand(1, 3, 16, 24)
    found = warp(images, torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, 16, 24).float())
    rows, columns = (torch.arange(16) + dy).clamp(0, 15), (torch.arange(24) + dx).clamp(0, 23)
    torch.testing.assert_close(found, images[:, :, rows][..., columns], rtol=0, atol=1e-5)


# --- Lucas and Kanade ------------------------------------------------------------------------------------------------


def moved(dx: float, dy: float, *, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two cuts (1, 3, height, width) from a smooth random texture, by a spline: now(p) = before(p + (dx, dy))."""
    margin = 16
    large = gaussian_filter(np.random.default_rng(0).random((3, height + 2 * margin, width + 2 * margin)), (0, 2, 2))
    large = (large - large.min()) / (large.max() - large.min())
    y, x = np.meshgrid(np.arange(height) + margin, np.arange(width) + margin, indexing="ij")
    cuts = [
        np.stack([map_coordinates(channel, [y + v, x + u], order=3) for channel in large])
        for u, v in ((dx, dy), (0, 0))
    ]
    now, before = (torch.from_numpy(cut).float()[None].clamp(0, 1) for cut in cuts)
    return now, before


INNER = np.s_[..., 8:-8, 8:-8]  # what came in at the border cannot be found


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (48, 80), (32, 32)])
@pytest.mark.parametrize(("dx", "dy"), [(0.4, 0), (0, -0.3), (1.7, -0.6), (-3.2, 2.5), (5, 3)])
def test_lucas_kanade_finds_a_translation(size: tuple[int, int], dx: float, dy: float) -> None:
    height, width = size
    now, before = moved(dx, dy, height=height, width=width)
    flow = lucas_kanade(now, before)
    assert flow.shape == (1, 2, height, width)
    error = (flow - torch.tensor([dx, dy]).view(1, 2, 1, 1))[INNER].norm(dim=1)
    assert float(error.median()) < 0.1
    if min(size) >= 48:
        assert float(error.mean()) < 0.25
        unmoved, explained = (now - before)[INNER].abs().mean(), (now - warp(before, flow))[INNER].abs().mean()
        assert float(explained) < 0.3 * float(unmoved)  # the rest: bilinear is no spline


@pytest.mark.parametrize(("dx", "dy"), [(0.4, 0.8), (2.3, -1.2), (-4, 4)])
def test_lucas_kanade_is_as_good_as_dis_on_smooth_textures(dx: float, dy: float) -> None:
    now, before = moved(dx, dy, height=64, width=96)
    truth = torch.tensor([dx, dy]).view(1, 2, 1, 1)
    ours, theirs = (
        float((flow(now, before) - truth)[INNER].norm(dim=1).mean()) for flow in (lucas_kanade, optical_flow)
    )
    assert ours < 1.5 * theirs + 0.05


@pytest.mark.parametrize("size", [(5, 7), (32, 48)])
def test_windows_end_at_the_border(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    for width in (3, 5):
        expected = F.avg_pool2d(images, width, stride=1, padding=width // 2, count_include_pad=False)
        torch.testing.assert_close(WindowMean(torch.ones(width), images)(images), expected)


def test_without_texture_or_motion_nothing_moves() -> None:
    flat = torch.full((2, 3, 32, 48), 0.4)
    assert not lucas_kanade(flat, flat).any()
    brighter = lucas_kanade(flat + 0.3, flat)  # of which no motion is the cause
    assert not brighter.any()
    still = torch.rand(1, 3, 32, 48)
    assert float(lucas_kanade(still, still).abs().max()) < 1e-5


def test_flows_of_a_batch_do_not_mix() -> None:
    first, second = moved(1, 2, height=32, width=48), moved(-2, 0.5, height=32, width=48)
    together = lucas_kanade(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    torch.testing.assert_close(together, torch.cat([lucas_kanade(*first), lucas_kanade(*second)]), **CLOSE)


# --- cost volume -----------------------------------------------------------------------------------------------------


def plain_cost_volume(now: Tensor, before: Tensor, *, radius: int) -> Tensor:
    """A product of shifted maps a displacement, row by row."""
    height, width = now.shape[2:]
    now, before = (x / x.norm(dim=1, keepdim=True) for x in (now, before))
    costs = []
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            cost = now.new_zeros(len(now), height, width)
            for y in range(max(0, -dy), min(height, height - dy)):
                for x in range(max(0, -dx), min(width, width - dx)):
                    cost[:, y, x] = (now[:, :, y, x] * before[:, :, y + dy, x + dx]).sum(1)
            costs.append(cost)
    return torch.stack(costs, 1)


@pytest.mark.parametrize(("height", "width", "radius"), [(5, 7, 2), (7, 5, 1), (4, 4, 4), (3, 6, 3)])
def test_cost_volume_is_a_product_of_shifted_maps(height: int, width: int, radius: int) -> None:
    now, before = torch.randn(2, 2, 6, height, width)
    found = cost_volume(now, before, radius=radius)
    torch.testing.assert_close(found, plain_cost_volume(now, before, radius=radius))
    assert (found[:, 0, :radius] == 0).all()  # up and to the left of the map there is nothing
    assert (found[:, -1, :, -radius:] == 0).all()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, -1), (-3, 3)])
def test_cost_volume_is_largest_at_the_true_displacement(dx: int, dy: int) -> None:
    before = torch.randn(1, 16, 12, 14)
    now = before.roll((-dy, -dx), (2, 3))  # now(p) = before(p + (dx, dy))
    volume = cost_volume(now, before, radius=3)[..., 3:-3, 3:-3]
    assert (volume.argmax(1) == (dy + 3) * 7 + dx + 3).all()
    torch.testing.assert_close(volume.amax(1), torch.ones(1, 6, 8))


# --- matching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, -1), (-3, 3)])
def test_the_best_displacement_is_where_the_cost_volume_is_largest(dx: int, dy: int) -> None:
    before = torch.randn(2, 16, 20, 24)
    now = before.roll((-dy, -dx), (2, 3))  # now(p) = before(p + (dx, dy))
    found = best_displacement(cost_volume(now, before, radius=4), radius=4)
    assert found.shape == (2, 2, 20, 24)
    inside = found[..., 6:-6, 6:-6]
    torch.testing.assert_close(
        inside, torch.tensor([dx, dy]).view(1, 2, 1, 1).expand_as(inside).float(), atol=0.05, rtol=0
    )


def test_the_best_displacement_is_found_to_a_fraction_of_a_place() -> None:
    """Of two neighbours that are as good, the middle; a third that is as good, but far away, does not count."""
    volume = torch.zeros(1, 25, 7, 7)
    volume[:, [12, 13]] = 1.0  # (0, 0) and (1, 0)
    torch.testing.assert_close(best_displacement(volume, radius=2)[0, :, 3, 3], torch.tensor([0.5, 0.0]))
    volume[:, 0] = 0.999  # (−2, −2)
    torch.testing.assert_close(best_displacement(volume, radius=2)[0, :, 3, 3], torch.tensor([0.5, 0.0]))


def matched(now: Tensor, before: Tensor, *, radius: int = 4) -> Tensor:
    """By the taps of a random encoder."""
    torch.manual_seed(0)
    encoder = Encoder()
    load_weights(encoder, "random")
    with torch.no_grad():
        taps = [encoder(image)["conv1"] for image in (now, before)]
        return matched_flow(now, before, cost_volume(*taps, radius=radius), texture_filters(), radius=radius)


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
@pytest.mark.parametrize(("dx", "dy"), [(0.4, 0), (0, -0.3), (1.7, -0.6), (-3.2, 2.5), (5, 3)])
def test_matching_finds_a_translation(size: tuple[int, int], dx: float, dy: float) -> None:
    height, width = size
    now, before = moved(dx, dy, height=height, width=width)
    flow = matched(now, before)
    error = (flow - torch.tensor([dx, dy]).view(1, 2, 1, 1))[INNER].norm(dim=1)
    assert flow.shape == (1, 2, height, width)
    assert float(error.median()) < 0.25


def test_brightness_is_no_motion() -> None:
    _, before = moved(0, 0, height=64, width=64)
    assert float(matched(before * 0.8 + 0.1, before)[INNER].abs().mean()) < 0.05


# --- the decoder's choices -------------------------------------------------------------------------------------------


def test_icnr_begins_as_nearest_neighbour_upsampling() -> None:
    """A pixel shuffle after it is a smaller convolution, each of whose outputs is repeated: no grid."""
    conv = nn.Conv2d(5, 6 * 4, 3, padding=1)
    drawn = conv.weight.detach().clone(), conv.bias.detach().clone()
    icnr_(conv, 2)
    x = torch.randn(2, 5, 8, 8)
    shuffled = F.pixel_shuffle(conv(x), 2)
    smaller = F.conv2d(x, drawn[0][::4], drawn[1][::4], padding=1)
    torch.testing.assert_close(shuffled, F.interpolate(smaller, scale_factor=2, mode="nearest"))
    assert float(smaller.detach().std(1).mean()) > 0.1  # its outputs are not all the same


@pytest.mark.parametrize("shuffle", [2, 4])
def test_a_decoder_block_with_icnr_has_no_grid(shuffle: int) -> None:
    """Its inputs are smooth; what its shuffle gives without ICNR has energy at the Nyquist frequency."""
    x = F.interpolate(torch.randn(4, 16, 3, 3), size=(16, 16), mode="bicubic")
    shares = []
    for icnr in (True, False):
        block = decoder_block(16, 8, expansion=8 * shuffle**2, shuffle=shuffle, norm="group", icnr=icnr)
        shuffled = block[:-1](x).detach()
        shares.append(float(nyquist_share(shuffled).mean()))
        blocks = shuffled.unfold(2, shuffle, shuffle).unfold(3, shuffle, shuffle)
        assert bool((blocks.std((-2, -1)) < 1e-6).all()) == icnr
    assert shares[0] < 0.1 * shares[1]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_norm_is_the_chosen_one(norm: str) -> None:
    net = build(norm=norm)
    kinds = {"group": nn.GroupNorm, "batch": nn.BatchNorm2d}
    decoder = [module for part in (net.decoder, net.full) for module in part.modules()]
    found = [module for module in decoder if isinstance(module, tuple(kinds.values()))]
    assert len(found) == 4  # L3 … L0
    assert {type(module) for module in found} == {kinds[norm]}
    if norm == "group":
        assert {module.num_groups for module in found} == {GROUPS} == {8}
    clips = torch.rand(2, 2, 3, 32, 64)
    alone, _ = predict(net.train(), clips[:1], horizon=1, clip_feedback=True)
    together, _ = predict(net.train(), clips, horizon=1, clip_feedback=True)
    assert torch.allclose(alone, together[:1], atol=1e-4) == (norm == "group")  # no statistics of a batch


# --- the network -----------------------------------------------------------------------------------------------------


def went_on(*, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Two frames of a texture that moves evenly, and, away from the border, the next one."""
    late, middle = moved(-2.5, 1, height=height, width=width)  # late(p) = middle(p + b)
    expected = warp(late, torch.tensor([-2.5, 1]).view(1, 2, 1, 1).expand(1, 2, height, width))
    return torch.stack([middle, late], 1), expected


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("flow", ["lucas_kanade", "matching"])
def test_a_fresh_network_goes_on_at_constant_velocity(flow: str, candidates: int) -> None:
    net = build(begun=False, height=64, candidates=candidates, flow=flow).eval()
    context, expected = went_on()
    with torch.no_grad():
        found, _ = predict(net, context, horizon=1, clip_feedback=True)
    inner = np.s_[..., 12:-12, 12:-12]
    left, unmoved = (float((frame - expected)[inner].abs().mean()) for frame in (found[:, 0], context[:, -1]))
    assert left < 0.1 * candidates * unmoved  # of three, two with a twentieth of the weight stay in place


@pytest.mark.parametrize("output", ["warp", "residual", "redraw"])
@pytest.mark.parametrize("flow", ["none", "lucas_kanade"])
def test_without_flow_or_without_warping_a_fresh_network_copies(output: str, flow: str) -> None:
    net = build(begun=False, output=output, flow=flow, earlier_flow=False, candidates=2).eval()
    context = torch.rand(2, 3, 3, 32, 64)
    with torch.no_grad():
        predictions, _ = predict(net, context, horizon=3, clip_feedback=True)
    copied = (predictions - context[:, -1:]).abs().amax((0, 2, 3, 4)) < 1e-4
    assert copied.tolist() == [output == "residual" or (output, flow) == ("warp", "none")] * 3


CHANGES = [
    *({"output": output, "cost_volume": radius} for output in ("residual", "redraw") for radius in (0, 1)),
    {"cost_volume": 0},
    {"flow": "matching"},
    {"flow": "none", "earlier_flow": False},
    {"flow": "none", "earlier_flow": False, "cost_volume": 0},
    {"earlier_flow": False},
    {"candidates": 3},
    {"norm": "batch"},
    {"icnr": False},
]


@pytest.mark.parametrize("changes", [{}, *CHANGES], ids=str)
def test_every_choice_trains_every_weight(changes: dict[str, object]) -> None:
    net = build(width=32, **{"cost_volume": 1} | changes).train()
    predictions, _ = predict(net, torch.rand(2, 2, 3, 32, 32), horizon=2, clip_feedback=True)
    assert predictions.shape == (2, 2, 3, 32, 32)
    predictions.square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("flow", ["lucas_kanade", "matching"])
def test_hidden_states_are_not_told_the_flow(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, context = build(flow=flow, cost_volume=1).eval(), torch.rand(1, 3, 3, 32, 64)
    with torch.no_grad():
        seen, states = predict(net, context, horizon=1, clip_feedback=True)
        other = tuple(torch.randn_like(x) for x in states["motion"])
        monkeypatch.setattr(net, "motion", lambda *_: other)
        unlike, others = predict(net, context, horizon=1, clip_feedback=True)
    assert not torch.allclose(seen, unlike)  # but the prediction is
    assert all(torch.equal(*pair) for pair in zip(net.hidden(states), net.hidden(others), strict=True))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="earlier_flow needs a flow"):
        replace(CONFIG, flow="none")
    with pytest.raises(ValueError, match="flow matching needs cost_volume above 0"):
        replace(CONFIG, flow="matching", cost_volume=0)


def test_the_head_says_where_pixels_come_from() -> None:
    """With its last convolution's weights zero its biases are the outputs, everywhere."""
    net = build(begun=False, height=64, candidates=2).eval()
    context, _ = went_on()
    late = context[:, -1]
    rgb, weights, changes, speeds = (
        *([0.1, -0.2, 0.3], [0.2, 0.7, -0.4], [1.5, -2.0, 0.0, 0.5], [0.5, -1.0]),  # changes: x and y of each
    )
    with torch.no_grad():
        net.head[-1].bias.copy_(torch.tensor([*rgb, *weights, *changes, *speeds]))
        found, states = predict(net, context, horizon=1, clip_feedback=True)
    flow, share = states["motion"][0], torch.tensor(weights).softmax(0)
    candidates = [
        warp(late, torch.tensor(changes[2 * k : 2 * k + 2]).view(1, 2, 1, 1) + speeds[k] * flow) for k in range(2)
    ]
    coloured = candidates[0] + torch.tensor(rgb).view(3, 1, 1)
    expected = share[0] * coloured + share[1] * candidates[0] + share[2] * candidates[1]
    torch.testing.assert_close(found[:, 0], expected)


def test_the_earlier_flow_is_that_of_the_same_texture() -> None:
    """It moved by one pixel and then by three; each pixel knows both, where it is now."""
    height, width = 64, 96
    _, first = moved(0, 0, height=height, width=width)
    frames = [first.roll(shift, -1) for shift in (0, 1, 4)]  # frame(p) = frame before(p − 1), then (p − 3)
    square = torch.zeros(1, 1, height, width)
    square[..., 16:48, 24:72] = 1
    clip = torch.stack([frame * square.roll(shift, -1) for frame, shift in zip(frames, (0, 1, 4), strict=True)], 1)
    net = build(height=height, width=width).eval()
    with torch.no_grad():
        _, states = predict(net, clip, horizon=1, clip_feedback=True)
    flow, _, earlier = states["motion"]
    inside = np.s_[0, :, 24:40, 40:64]
    torch.testing.assert_close(flow[inside].median(-1)[0].median(-1)[0], torch.tensor([-3.0, 0.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(earlier[inside].median(-1)[0].median(-1)[0], torch.tensor([-1.0, 0.0]), atol=0.1, rtol=0)


def test_a_first_frame_has_stood_still() -> None:
    """With no frame before it, the frame is its own: no flow, a cost volume with itself; as if it had come twice."""
    net = build(cost_volume=2).eval()
    frame = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        encoded = net.encode(frame)
        states = net.observe(encoded)
        again = net.observe(encoded, states)
    flow, unexplained, earlier = states["motion"]
    assert float(flow.abs().max()) < 1e-4
    assert torch.equal(earlier, flow)
    assert float(unexplained.max()) < 1e-4
    for name in ("C0", "match1", "match2"):
        (first, before), (second, after) = states[name], again[name]
        torch.testing.assert_close(first, second, **CLOSE)  # the inputs; the hidden states have moved on
        assert not torch.allclose(before, after, atol=1e-3)


def test_states_are_those_of_the_last_frame_fed() -> None:
    net = build().eval()
    context = torch.rand(2, 2, 3, 32, 64)
    with torch.no_grad():
        predictions, states = predict(net, context, horizon=3, clip_feedback=True)
    # The frame that the next one is compared with.
    assert torch.equal(states["last"][0], predictions[:, 1].clamp(0, 1))
    shapes = {name: [tuple(x.shape) for x in tensors] for name, tensors in states.items()}
    assert shapes["C1"] == 3 * [(2, 8, 16, 32)]
    assert shapes["C4"] == 3 * [(2, 8, 2, 4)]
    assert [shapes[name][1] for name in ("C0", "match1", "match2")] == [(2, 2, 32, 64), (2, 8, 16, 32), (2, 8, 8, 16)]
    assert shapes["motion"] == [(2, 2, 32, 64), (2, 1, 32, 64), (2, 2, 32, 64)]


# --- feeding ---------------------------------------------------------------------------------------------------------


FEEDINGS = [("lvln", True), ("one_frame", False), ("full_res", True), ("lvln_warp", True), ("lvln_warp", False)]


def begun(name: str) -> Ladder:
    return build() if name == "lvln_warp" else small(name)


@pytest.mark.parametrize(("name", "clip_feedback"), FEEDINGS)
@pytest.mark.parametrize(("horizon", "off_by_one"), [(1, False), (2, False), (2, True)])
def test_predict_is_the_loop_by_hand(name: str, clip_feedback: bool, horizon: int, off_by_one: bool) -> None:
    """The plain form calls the network frame by frame; predict() encodes the whole context in one batch."""
    net = begun(name).eval()
    context = 3 * torch.rand(2, 3, 3, 32, 64) - 1
    feeding = {"clip_feedback": clip_feedback, "off_by_one": off_by_one}
    with torch.no_grad():
        found, found_states = predict(net, context, horizon=horizon, **feeding)
        states, outputs = None, []
        for t in range(3):
            output, states = net(context[:, t], states)
        for _ in range(horizon + off_by_one):
            outputs.append(output)
            last = states
            output, states = net(output.clamp(0, 1) if clip_feedback else output, states)
    torch.testing.assert_close(found, torch.stack(outputs[-horizon:], 1), **CLOSE)
    torch.testing.assert_close(found_states, last, **CLOSE)


def by_hand(net: Ladder, clips: Tensor, mask: Tensor, *, clip_feedback: bool) -> Tensor:
    """One clip at a time."""
    predictions = []
    for clip, mine in zip(clips, mask.tolist(), strict=True):
        states, outputs = None, []
        for t in range(len(clip) - 1):
            frame = clip[t]
            if t > 0 and mine[t]:
                frame = outputs[-1].clamp(0, 1) if clip_feedback else outputs[-1]
            output, states = net(frame[None], states)
            outputs.append(output[0])
        predictions.append(torch.stack(outputs))
    return torch.stack(predictions)


@pytest.mark.parametrize(("name", "clip_feedback"), FEEDINGS)
def test_every_frame_is_predicted_as_by_hand(name: str, clip_feedback: bool) -> None:
    """The mask says where the network is fed its own; without one, after the context."""
    net = begun(name).eval()
    clips = 2 * torch.rand(4, 5, 3, 32, 64) - 0.5
    mask = torch.rand(4, 5) < 0.5
    mask[0], mask[1] = False, torch.arange(5) >= 3  # the true frames; as without a mask after a context of three
    mask[2] = True  # free running; the first frame, and the last, which nothing is fed, do not matter
    assert mask[:, 1:-1].float().mean() not in (0, 1)
    with torch.no_grad():
        found = predict_every_frame(net, clips, context=3, clip_feedback=clip_feedback, mask=mask)
        expected = by_hand(net, clips, mask, clip_feedback=clip_feedback)
        free, _ = predict(net, clips[2:3, :1], horizon=4, clip_feedback=clip_feedback)
        unmasked = predict_every_frame(net, clips, context=3, clip_feedback=clip_feedback)
        after_context = by_hand(net, clips, mask[1].expand(4, 5), clip_feedback=clip_feedback)
    assert found.shape == (4, 4, 3, 32, 64)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found[2:3], free, **CLOSE)
    torch.testing.assert_close(unmasked, after_context, **CLOSE)
    mask[:, [0, -1]] ^= True
    with torch.no_grad():
        assert torch.equal(found, predict_every_frame(net, clips, context=3, clip_feedback=clip_feedback, mask=mask))
