"""The predictors that learn nothing, on a texture whose motion is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from pipeline.evaluation import baselines as module
from pipeline.evaluation.baselines import BASELINES, baselines, copy_last, optical_flow, skipped
from pipeline.evaluation.metrics import psnr
from pipeline.images import warp

DX, DY = 1.5, -1.0  # pixels a frame


def make_texture(seed: int, size: int) -> np.ndarray:
    """float32 (3, size, size) in [0, 1]"""
    noise = gaussian_filter(np.random.default_rng(seed).random((3, size, size)), 2, axes=(1, 2))
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    return make_texture(0, 160)


def moved(texture: np.ndarray, *times: float) -> Tensor:
    """(1, frames, 3, 64, 96): a window on a texture that moves by (DX, DY) a frame, at these times."""
    y, x = np.mgrid[:64, :96] + 30.0
    clip = [[map_coordinates(channel, [y - t * DY, x - t * DX], order=3) for channel in texture] for t in times]
    return torch.from_numpy(np.array(clip)).clamp(0, 1).unsqueeze(0)


def test_flow_points_from_a_pixel_to_where_it_is_found(texture: np.ndarray) -> None:
    now, before = moved(texture, 1, 0)[0].unsqueeze(1)
    flow = optical_flow(now, before)
    assert flow.shape == (1, 2, 64, 96)
    inside = flow[0, :, 8:-8, 8:-8].median(-1).values.median(-1).values
    torch.testing.assert_close(inside, torch.tensor([-DX, -DY]), atol=0.1, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (160, 128)])
def test_flow_at_other_sizes(height: int, width: int) -> None:
    texture = make_texture(1, 200)
    clip = torch.from_numpy(np.stack([texture[:, 10 : 10 + height, 10 + t : 10 + t + width] for t in (0, 2)]))
    flow = optical_flow(clip[1:], clip[:1])  # the texture went 2 to the left: it is found 2 to the right
    assert flow.shape == (1, 2, height, width)
    torch.testing.assert_close(flow.flatten(2).median(2).values[0], torch.tensor([2.0, 0.0]), atol=0.15, rtol=0)


def test_velocities_and_oracle_on_constant_motion(texture: np.ndarray) -> None:
    """The window's border, which comes from outside, is left out."""
    clip = moved(texture, *range(6))
    context, targets = clip[:, :3], clip[:, 3:]
    found = baselines(context, targets)
    assert tuple(found) == BASELINES == ("copy_last", "mean_of_two", "constant_velocity", "half_velocity", "oracle")
    inside = np.s_[..., 10:-10, 10:-10]
    quality = {name: psnr(frames[0][inside], targets[0][inside]) for name, frames in found.items()}
    assert (quality["constant_velocity"] > 30).all()
    assert (quality["oracle"] > 33).all()
    assert (quality["half_velocity"] < quality["constant_velocity"] - 3).all()
    assert (quality["copy_last"] < quality["half_velocity"] - 1).all()
    halfway = moved(texture, 2.5, 3, 3.5)
    assert (psnr(found["half_velocity"][0][inside], halfway[0][inside]) > 30).all()


def test_nothing_moves() -> None:
    clip = torch.rand(1, 1, 3, 32, 32).expand(-1, 5, -1, -1, -1)
    for name, frames in baselines(clip[:, :3], clip[:, 3:]).items():
        torch.testing.assert_close(frames, clip[:, 3:], atol=1e-3, rtol=0, msg=name)


def test_mean_of_two_and_copy_last() -> None:
    context = torch.rand(2, 3, 3, 32, 32)
    targets = torch.rand(2, 4, 3, 32, 32)
    found = baselines(context, targets)
    assert all(frames.shape == targets.shape for frames in found.values())
    copied = copy_last(context, horizon=4)
    assert copied.shape == (2, 4, 3, 32, 32)
    for k in range(4):
        assert torch.equal(copied[:, k], context[:, 2])
        assert torch.equal(found["copy_last"][:, k], context[:, 2])
        torch.testing.assert_close(found["mean_of_two"][:, k], (context[:, 1] + context[:, 2]) / 2)


def test_warp_is_scipys_interpolation() -> None:
    images = torch.rand(2, 3, 9, 13, dtype=torch.float64)
    flow = 4 * torch.randn(2, 2, 9, 13, dtype=torch.float64)  # far over the border here and there
    y, x = np.mgrid[:9, :13]
    out = warp(images, flow)
    for n in range(2):
        at = [y + flow[n, 1].numpy(), x + flow[n, 0].numpy()]
        for c in range(3):
            expected = map_coordinates(images[n, c].numpy(), at, order=1, mode="nearest")
            np.testing.assert_allclose(out[n, c].numpy(), expected, atol=1e-9)


def test_without_opencv_or_a_second_context_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    context, targets = torch.rand(1, 3, 3, 32, 32), torch.rand(1, 2, 3, 32, 32)
    every = set(baselines(context, targets))
    for cv2 in (module.cv2, None):
        monkeypatch.setattr(module, "cv2", cv2)
        for count in (1, 3):
            found = set(baselines(context[:, :count], targets))
            assert found | set(skipped(count)) == every
            assert not found & set(skipped(count))
    assert set(skipped(3)) == {"constant_velocity", "half_velocity", "oracle"}
    assert "OpenCV" in skipped(3)["oracle"]
