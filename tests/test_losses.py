"""Losses against NumPy (SSIM: test_quality.py); each alone; and what a training step weighs."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate, map_coordinates
from torch import Tensor

from pipeline.images import SCALES, gradient_difference, ms_ssim, ssim, ssim_terms
from pipeline.settings import ParamsError
from pipeline.training.losses import LOSSES, laplacian_difference, loss_per_image
from tests.support.training import config

MOVING = (torch.arange(48 * 64).view(1, 48, 64) % torch.tensor([2, 3, 5]).view(3, 1, 1) == 0).float()


def pair(*, height: int = 48, width: int = 64, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    a = torch.rand(3, 3, height, width)
    return a, (a + noise * torch.randn_like(a)).clamp(0, 1)


def halved(image: np.ndarray) -> np.ndarray:
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def doubled(image: np.ndarray) -> np.ndarray:
    """Bilinear, pixels being areas; beyond the border, the border's value."""
    height, width = image.shape
    y, x = ((np.arange(2 * size) + 0.5) / 2 - 0.5 for size in (height, width))
    return map_coordinates(image, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")


def laplacian_by_hand(image: np.ndarray) -> list[np.ndarray]:
    levels = []
    for _ in range(3):
        coarse = halved(image)
        levels.append(image - doubled(coarse))
        image = coarse
    return [*levels, image]


def test_laplacian_difference_is_that_of_two_pyramids() -> None:
    a, b = (x.double() for x in pair())
    found = laplacian_difference(a, b)
    for n in range(3):
        expected = 0.0
        for c in range(3):
            pyramids = zip(laplacian_by_hand(a[n, c].numpy()), laplacian_by_hand(b[n, c].numpy()), strict=True)
            expected += sum(np.abs(x - y).mean() for x, y in pyramids) / 3
        assert float(found[n]) == pytest.approx(expected, rel=1e-9)


def test_laplacian_difference_of_a_shade_is_that_of_the_coarsest_level() -> None:
    a, _ = pair()
    torch.testing.assert_close(laplacian_difference(a, a + 0.25), torch.full((3,), 0.25))


def test_gradient_difference_by_hand() -> None:
    a, b = pair()
    found = gradient_difference(a, b)
    for n in range(3):
        x, y = a[n].numpy(), b[n].numpy()
        down = np.abs(np.abs(x[:, 1:] - x[:, :-1]) - np.abs(y[:, 1:] - y[:, :-1])).mean()
        right = np.abs(np.abs(x[:, :, 1:] - x[:, :, :-1]) - np.abs(y[:, :, 1:] - y[:, :, :-1])).mean()
        assert float(found[n]) == pytest.approx((down + right) / 2, rel=1e-5)
    torch.testing.assert_close(gradient_difference(a, 1 - a), torch.zeros(3), atol=1e-6, rtol=0)  # only their sizes
    assert (gradient_difference(a, torch.full_like(a, 0.5)) > 0.2).all()  # a blur


@pytest.mark.parametrize(
    ("height", "width", "scales"), [(48, 64, 3), (32, 40, 2), (21, 64, 1), (44, 44, 3), (43, 99, 2)]
)
def test_ms_ssim_has_as_many_scales_as_hold_a_window(height: int, width: int, scales: int) -> None:
    """Each scale's contrast by SciPy's correlation with the window; the coarsest has the luminance too."""
    a, b = (x.double() for x in pair(height=height, width=width))
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def filtered(image: np.ndarray) -> np.ndarray:
        return correlate(image, window)[5:-5, 5:-5]

    found = ms_ssim(a, b)
    for n in range(3):
        channels, value = list(zip(a[n].numpy(), b[n].numpy(), strict=True)), 1.0
        for scale in range(scales):
            terms = []
            for x, y in channels:
                mean_x, mean_y = filtered(x), filtered(y)
                covariance = filtered(x * y) - mean_x * mean_y
                spread = filtered(x * x) - mean_x**2 + filtered(y * y) - mean_y**2
                term = (2 * covariance + 0.03**2) / (spread + 0.03**2)
                if scale == scales - 1:
                    term = term * (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
                terms.append(term)
            value *= np.mean(terms) ** (SCALES[scale] / sum(SCALES[:scales]))
            channels = [
                tuple(halved(z[: len(z) // 2 * 2, : z.shape[1] // 2 * 2]) for z in channel) for channel in channels
            ]
        assert float(found[n]) == pytest.approx(value, abs=1e-9)
    if scales == 1:
        torch.testing.assert_close(found, ssim(a, b))


def test_ms_ssim_has_gradients_where_the_images_are_opposites() -> None:
    """There the contrast is below zero, of which there is no power."""
    a = torch.rand(2, 3, 48, 48)
    b = (1 - a).requires_grad_()
    assert (ssim_terms(a, b)[1].mean((1, 2, 3)) < 0).all()
    value = ms_ssim(a, b)
    value.sum().backward()
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert b.grad.isfinite().all()


def each_alone(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {
        "dssim": (1 - ssim(a, b)) / 2,
        "l1": (a - b).abs().mean((1, 2, 3)),
        "l2": (a - b).square().mean((1, 2, 3)),
        "ms_dssim": (1 - ms_ssim(a, b)) / 2,
        "laplacian": laplacian_difference(a, b),
        "gradient": gradient_difference(a, b),
        "moving_l1": torch.stack([(x - y).abs()[:, mask > 0].mean() for x, y, mask in zip(a, b, MOVING, strict=True)]),
    }


@pytest.mark.parametrize("term", LOSSES)
def test_every_term_alone(term: str) -> None:
    a, b = pair()
    found = loss_per_image(a, b, {term: 3.0}, MOVING)
    torch.testing.assert_close(found, each_alone(a, b)[term])
    assert (found > 0.01).all()
    torch.testing.assert_close(loss_per_image(a, a, {term: 1.0}, MOVING), torch.zeros(3), atol=1e-6, rtol=0)


def test_all_terms_together_are_their_weighted_mean() -> None:
    a, b = pair()
    weights = {term: float(k) for k, term in enumerate(LOSSES, 1)}
    expected = sum(weights[term] * value for term, value in each_alone(a, b).items()) / 28
    torch.testing.assert_close(loss_per_image(a, b, weights, MOVING), expected)


def test_without_moving_pixels_their_loss_is_zero() -> None:
    a, b = pair()
    assert not loss_per_image(a, b, {"moving_l1": 1.0}, torch.zeros_like(MOVING)).any()


@pytest.mark.parametrize("term", LOSSES)
def test_values_outside_the_range_are_punished(term: str) -> None:
    """A prediction is not clipped for the loss, else there would be no way back."""
    target = 0.98 + 0.02 * torch.rand(1, 3, 48, 48)
    prediction = (target + 0.1 + 0.4 * torch.rand_like(target)).requires_grad_()
    loss_per_image(prediction, target, {term: 1.0}, torch.ones(1, 48, 48)).sum().backward()
    assert prediction.grad.abs().mean() > 0


def test_what_is_left_out_weighs_nothing() -> None:
    a, b = pair()
    some = {"dssim": 0.6, "gradient": 0.3}
    assert torch.equal(
        loss_per_image(a, b, some, MOVING), loss_per_image(a, b, dict.fromkeys(LOSSES, 0.0) | some, MOVING)
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        *(({term: -0.5}, rf"\.loss\.{term}: -0\.5 is not allowed; allowed: a number, at least 0") for term in LOSSES),
        ({"ssim": 1}, r": loss\.ssim is not a loss; allowed: l1, l2, dssim, ms_dssim, laplacian, gradient, moving_l1"),
        (dict.fromkeys(LOSSES, 0), r": loss: all weights are zero; one of l1, l2, .*, moving_l1 must be above 0"),
    ],
)
def test_weights_are_checked_with_their_key(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ParamsError, match=rf"train\.lvln{message}"):
        config(loss=weights)
