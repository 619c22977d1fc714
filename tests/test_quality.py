"""Metrics against independent implementations, and what is scored against what."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from pipeline.evaluation.metrics import (
    PSNR_CAP,
    REGIONS,
    frame_quality,
    gradient_energy,
    metric_and_region,
    nyquist_share,
    over,
    psnr,
    regions_of,
)
from pipeline.images import SCALES, gradient_difference, ms_ssim, ssim
from pipeline.nets.rollout import predict
from pipeline.training.step import RolloutLoss
from tests.support.nets import Counting
from tests.support.training import config

# scikit-image's options for the SSIM of Wang et al.
SCIKIT = {"channel_axis": 0, "data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def images(n: int, *, height: int = 24, width: int = 33, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    truth = torch.rand(n, 3, height // 3, width // 3, generator=generator)
    truth = torch.nn.functional.interpolate(truth, size=(height, width), mode="bilinear")
    return (truth + noise * torch.randn(truth.shape, generator=generator)).clamp(0, 1), truth


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5])
def test_ssim_and_psnr_equal_scikit_image(noise: float) -> None:
    a, b = images(4, noise=noise)
    for n in range(4):
        x, y = a[n].numpy().astype(np.float64), b[n].numpy().astype(np.float64)
        assert float(ssim(a, b)[n]) == pytest.approx(structural_similarity(x, y, **SCIKIT), abs=1e-5)
        assert float(psnr(a, b)[n]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-4)


def test_extremes() -> None:
    a, _ = images(2)
    assert psnr(a, a).tolist() == [PSNR_CAP] * 2
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert float(psnr(black, white)) == 0  # unsigned bytes that wrap around would say otherwise
    assert float(ssim(black, white)) == pytest.approx(0.01**2 / (1 + 0.01**2), rel=1e-4)


def test_over_the_whole_image_they_are_the_plain_ones() -> None:
    a, b = images(3, height=48, width=50)
    found = frame_quality(a, b, torch.ones(1, 3, 48, 50))
    plain = {
        "psnr": psnr(a, b),
        "ssim": ssim(a, b),
        "ms_ssim": ms_ssim(a, b),
        "l1": (a - b).abs().mean((1, 2, 3)),
        "gradient_difference": gradient_difference(a, b),
    }
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(found[name][0], value, atol=1e-5, rtol=1e-5)


def similarity_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """scikit-image's own map of SSIM, (C, H, W), borders and all."""
    return structural_similarity(x, y, full=True, **SCIKIT)[1]


def contrast_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM's contrast · structure, by SciPy's Gaussian."""

    def blurred(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, radius=5, axes=(1, 2))

    mean_x, mean_y = blurred(x), blurred(y)
    covariance = blurred(x * y) - mean_x * mean_y
    variances = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
    return (2 * covariance + 0.03**2) / (variances + 0.03**2)


def halved(image: np.ndarray) -> np.ndarray:
    """(…, H, W) -> (…, H/2, W/2, 4): the four pixels of each block."""
    *rest, height, width = image.shape
    blocks = image.reshape(*rest, height // 2, 2, width // 2, 2)
    return np.moveaxis(blocks, -3, -2).reshape(*rest, height // 2, width // 2, 4)


def test_over_a_region_they_are_those_of_its_pixels() -> None:
    """A ragged region, pixel by pixel with NumPy and scikit-image's maps."""
    a, b = images(2, height=48, width=64)
    where = torch.rand(2, 48, 64, generator=torch.Generator().manual_seed(1)) < 0.03
    where[:, 20:30, 25:45] = True
    found = frame_quality(a, b, torch.stack([torch.ones(2, 48, 64), where.float()]))
    for n in range(2):
        x, y, mask = a[n].double().numpy(), b[n].double().numpy(), where[n].numpy()
        inside_psnr = peak_signal_noise_ratio(y[:, mask], x[:, mask], data_range=1)
        assert found["psnr"][1, n] == pytest.approx(inside_psnr, abs=1e-3)
        assert found["l1"][1, n] == pytest.approx(np.abs(x - y)[:, mask].mean(), abs=1e-6)
        down, right = mask[1:] | mask[:-1], mask[:, 1:] | mask[:, :-1]
        expected = [
            np.abs(np.abs(np.diff(x, axis=1)) - np.abs(np.diff(y, axis=1)))[:, down].mean(),
            np.abs(np.abs(np.diff(x, axis=2)) - np.abs(np.diff(y, axis=2)))[:, right].mean(),
        ]
        assert found["gradient_difference"][1, n] == pytest.approx(np.mean(expected), abs=1e-6)
        inside = np.s_[..., 5:-5, 5:-5]
        whole = similarity_map(x, y)[inside][:, mask[inside]].mean()
        assert found["ssim"][1, n] == pytest.approx(whole, abs=1e-4)
        product = 1.0
        for scale, exponent in enumerate(SCALES):
            at = mask[inside]
            terms = similarity_map(x, y) if scale == len(SCALES) - 1 else contrast_map(x, y)
            assert 0 < at.sum() < at.size or scale == 2
            product *= max(terms[inside][:, at].mean(), 1e-3) ** (exponent / sum(SCALES))
            if scale < len(SCALES) - 1:
                x, y, mask = halved(x).mean(-1), halved(y).mean(-1), halved(mask).any(-1)
        assert found["ms_ssim"][1, n] == pytest.approx(product, abs=1e-3)
    assert all((values[0] != values[1]).all() for values in found.values())


def test_what_lies_outside_the_region_does_not_matter() -> None:
    a, b = images(1, height=64, width=64)
    region = torch.zeros(1, 1, 64, 64)
    region[..., 28:36, 28:36] = 1
    spoilt = a.clone()
    spoilt[..., :4, :] = 1 - spoilt[..., :4, :]  # no window of a scale reaches from the region to there
    before, after = frame_quality(a, b, region), frame_quality(spoilt, b, region)
    for name in ("psnr", "ssim", "l1", "gradient_difference"):
        torch.testing.assert_close(before[name], after[name])
    assert psnr(a, b) > psnr(spoilt, b) + 1


def test_a_frame_without_moving_pixels_has_no_value() -> None:
    a, b = images(2)
    region = torch.zeros(1, 2, 24, 33)
    region[0, 1, 10, 10] = 1
    for name, values in frame_quality(a, b, region).items():
        assert values[0].isnan().tolist() == [True, False], name


def test_windows_do_not_reach_motion_near_the_border() -> None:
    """Of 64 × 64 pixels SSIM's centres are 5 or more from the border; 20 or more at the third scale of MS-SSIM."""
    a, b = images(3, height=64, width=64)
    region = torch.zeros(1, 3, 64, 64)
    for n, place in enumerate((4, 19, 20)):
        region[0, n, place, 32] = 1
    for name, values in frame_quality(a, b, region).items():
        without = {"ssim": [True, False, False], "ms_ssim": [True, True, False]}.get(name, [False] * 3)
        assert values[0].isnan().tolist() == without, name


def changing(*changes: tuple[float, ...]) -> Tensor:
    """A clip (1, T, 3, 1, W) that begins grey; `changes`: of the green of each pixel, a tuple for each later frame."""
    frames = [torch.full((3, 1, len(changes[0])), 0.5)]
    for change in changes:
        frames.append(frames[-1].clone())
        frames[-1][1, 0] += torch.tensor(change)  # one channel is enough
    return torch.stack(frames)[None]


def test_moving_pixels_moved_in_the_last_context_frame_or_move_in_the_true_one() -> None:
    """Pixels: moved before that, moved last, moves on, moves in the first target, in the second, moves too little."""
    clip = changing(
        (0.2, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.2, -0.2, 0.0, 0.0, 0.09),
        (0.0, 0.0, 0.11, 0.2, 0.0, 0.09),
        (0.0, 0.0, 0.0, 0.0, -0.2, 0.09),
    )
    regions = regions_of(clip, 3, threshold=0.1)
    assert regions.shape == (4, 1, 2, 1, 6)
    found = dict(zip(REGIONS, regions[:, 0, :, 0].int().tolist(), strict=True))
    assert found == {
        "whole": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]],
        "moving": [[0, 1, 1, 1, 0, 0], [0, 1, 1, 0, 1, 0]],
        "expected": [[0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0]],
        "outcome": [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]],
    }
    alone = regions_of(clip[:, 2:], 1, threshold=0.1)[:, 0, :, 0].int().tolist()
    assert alone == [found["whole"], found["outcome"], [[0] * 6] * 2, found["outcome"]]


def test_whoever_overshoots_is_punished_where_motion_was_expected_and_stopped() -> None:
    """A textured square that stops: the prediction that goes on is wrong on it, and no pixel of the outcome says so."""
    texture = (torch.arange(8) % 2 + torch.arange(8)[:, None] % 3).div(3).expand(3, 8, 8)
    frames = torch.zeros(1, 4, 3, 16, 24)
    for t, left in enumerate((2, 5, 8, 8)):
        frames[0, t, :, 4:12, left : left + 8] = texture
    regions = regions_of(frames, 3, threshold=0.1).flatten(1, 2)
    errors = frame_quality(frames[:, 3].roll(3, -1), frames[:, 3], regions)["l1"][:, 0]
    assert errors[REGIONS.index("outcome")].isnan()
    assert errors[REGIONS.index("moving")] == errors[REGIONS.index("expected")] > 0.2


def test_names_over_regions() -> None:
    assert [over(region, "ms_ssim") for region in REGIONS] == [
        *("ms_ssim", "ms_ssim_moving", "ms_ssim_expected", "ms_ssim_outcome")
    ]
    assert all(metric_and_region(over(region, "ms_ssim")) == ("ms_ssim", region) for region in REGIONS)


def test_nyquist_share() -> None:
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    rows, checks, slow = ((pattern % 2).float() for pattern in (y, x + y, x // 2))
    wave = torch.cos(2 * torch.pi * x / 16)  # one period
    mixed = 0.3 * wave + 0.4 * (2 * rows - 1)  # energies 0.045 and 0.16
    patterns = torch.stack([rows, checks, slow, wave, mixed, torch.ones(16, 16)])
    share = nyquist_share(patterns.unsqueeze(1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(share, torch.tensor([1, 1, 0, 0, 0.16 / 0.205, 0]), atol=1e-5, rtol=1e-4)


def test_gradient_energy() -> None:
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 0.5
    assert gradient_energy(step).item() == pytest.approx(0.25 / 7)  # one of seven differences along a row, none down
    assert gradient_energy(step.transpose(2, 3)).item() == pytest.approx(0.25 / 7)
    sharp = torch.rand(2, 3, 32, 32)
    blurred = torch.from_numpy(gaussian_filter(sharp.numpy(), 1, axes=(2, 3)))
    assert (gradient_energy(blurred) < 0.3 * gradient_energy(sharp)).all()


def test_prediction_k_answers_for_frame_n_in_plus_k() -> None:
    """Clips whose frames are the constants 0 … 5: the output after the last seen frame is prediction 1 of frame 3."""
    clip = torch.arange(6, dtype=torch.uint8).view(1, 6, 1, 1, 1).expand(2, 6, 3, 32, 32)
    net = Counting()
    predictions, _ = predict(net, clip[:, :3].float() / 255, horizon=3, clip_feedback=True)
    assert (predictions * 255).round().mean((0, 2, 3, 4)).tolist() == [3, 4, 5]
    assert net.fed == [0, 1, 2, 3, 4]  # the context, then predictions 1 and 2: nothing thrown away, nothing twice

    settings = config(context=3, horizon=3, loss={"dssim": 0, "l1": 1})
    losses = RolloutLoss(net, settings)(clip)
    assert losses.shape == (2, 3)
    assert losses.max() < 1e-6
    late = RolloutLoss(net, settings)(clip.flip(1))  # 5 4 3 | 2 1 0
    torch.testing.assert_close(late[0], torch.tensor([2.0, 4.0, 6.0]) / 255)  # predicts 4 5 6


def test_off_by_one_scores_each_prediction_against_the_frame_before_its_own() -> None:
    """The first prediction, 3, is thrown away: 4, 5 and 6 answer for the frames 3, 4 and 5."""
    clip = torch.arange(6, dtype=torch.uint8).view(1, 6, 1, 1, 1).expand(2, 6, 3, 32, 32)
    settings = config(context=3, horizon=3, loss={"dssim": 0, "l1": 1}, off_by_one=True)
    net = Counting()
    losses = RolloutLoss(net, settings)(clip)
    torch.testing.assert_close(losses, torch.full((2, 3), 1 / 255))
    assert net.fed == [0, 1, 2, 3, 4, 5]
