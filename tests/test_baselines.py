"""The predictors that learn nothing, on a texture whose motion is known."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor

from pipeline.evaluation import baselines as module
from pipeline.evaluation.baselines import absent, baselines, copy_last, optical_flow
from pipeline.evaluation.quality import psnr
from pipeline.nets.blocks import warp

DX, DY = 1.5, -1.0  # pixels a frame


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(0).random((3, 160, 160)), 2, axes=(1, 2))
    return ((noise - noise.min()) / (noise.max() - noise.min())).astype(np.float32)


def moved(texture: np.ndarray, *, frames: int, height: int = 64, width: int = 96) -> Tensor:
    """(1, frames, 3, height, width): a window on a texture that moves by (DX, DY) a frame."""
    y, x = np.mgrid[:height, :width] + 30.0
    clip = [[map_coordinates(channel, [y - t * DY, x - t * DX], order=3) for channel in texture] for t in range(frames)]
    return torch.from_numpy(np.array(clip)).clamp(0, 1).unsqueeze(0)


def test_flow_points_from_a_pixel_to_where_it_is_found(texture: np.ndarray) -> None:
    now, before = moved(texture, frames=2)[0, [1, 0]].unsqueeze(1)
    flow = optical_flow(now, before)
    assert flow.shape == (1, 2, 64, 96)
    inside = flow[0, :, 8:-8, 8:-8].median(-1).values.median(-1).values
    torch.testing.assert_close(inside, torch.tensor([-DX, -DY]), atol=0.1, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (160, 128)])
def test_flow_at_other_sizes(height: int, width: int) -> None:
    noise = gaussian_filter(np.random.default_rng(1).random((3, 200, 200)), 2, axes=(1, 2))
    texture = ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)
    clip = torch.from_numpy(np.stack([texture[:, 10 : 10 + height, 10 + t : 10 + t + width] for t in (0, 2)]))
    flow = optical_flow(clip[1:], clip[:1])  # the texture went 2 to the left: it is found 2 to the right
    assert flow.shape == (1, 2, height, width)
    torch.testing.assert_close(flow.flatten(2).median(2).values[0], torch.tensor([2.0, 0.0]), atol=0.15, rtol=0)


def test_velocities_and_oracle_on_constant_motion(texture: np.ndarray) -> None:
    """The window's border, which comes from outside, is left out."""
    clip = moved(texture, frames=6)
    seeds, targets = clip[:, :3], clip[:, 3:]
    found = baselines(seeds, targets)
    assert set(found) == {"copy_last", "mean_of_two", "constant_velocity", "half_velocity", "oracle"}
    inside = np.s_[..., 10:-10, 10:-10]
    quality = {name: psnr(frames[0][inside], targets[0][inside]) for name, frames in found.items()}
    assert (quality["constant_velocity"] > 30).all()
    assert (quality["oracle"] > 33).all()
    assert (quality["half_velocity"] < quality["constant_velocity"] - 3).all()
    assert (quality["copy_last"] < quality["half_velocity"] - 1).all()
    for k in (1, 2, 3):  # half velocity: half the way
        halfway = torch.from_numpy(np.array(moved_by(texture, 2 + k / 2)))
        assert psnr(found["half_velocity"][0, k - 1][inside][None], halfway[inside][None]) > 30


def moved_by(texture: np.ndarray, t: float) -> list[np.ndarray]:
    y, x = np.mgrid[:64, :96] + 30.0
    return [map_coordinates(channel, [y - t * DY, x - t * DX], order=3) for channel in texture]


def test_nothing_moves() -> None:
    clip = torch.rand(1, 1, 3, 32, 32).expand(-1, 5, -1, -1, -1)
    for name, frames in baselines(clip[:, :3], clip[:, 3:]).items():
        torch.testing.assert_close(frames, clip[:, 3:], atol=1e-3, rtol=0, msg=name)


def test_mean_of_two_and_copy_last() -> None:
    seeds = torch.rand(2, 3, 3, 32, 32)
    targets = torch.rand(2, 4, 3, 32, 32)
    found = baselines(seeds, targets)
    assert all(frames.shape == targets.shape for frames in found.values())
    copied = copy_last(seeds, horizon=4)
    assert copied.shape == (2, 4, 3, 32, 32)
    for k in range(4):
        assert torch.equal(copied[:, k], seeds[:, 2])
        assert torch.equal(found["copy_last"][:, k], seeds[:, 2])
        torch.testing.assert_close(found["mean_of_two"][:, k], (seeds[:, 1] + seeds[:, 2]) / 2)


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


def test_without_opencv_or_a_second_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, targets = torch.rand(1, 3, 3, 32, 32), torch.rand(1, 2, 3, 32, 32)
    every = set(baselines(seeds, targets))
    for cv2 in (module.cv2, None):
        monkeypatch.setattr(module, "cv2", cv2)
        for count in (1, 3):
            found = set(baselines(seeds[:, :count], targets))
            assert found | set(absent(count)) == every
            assert not found & set(absent(count))
    assert set(absent(3)) == {"constant_velocity", "half_velocity", "oracle"}
    assert "OpenCV" in absent(3)["oracle"]
