"""Metrics and losses against independent implementations, and what is scored against what."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.quality import PSNR_CAP, Quality, psnr
from pipeline.evaluation.score import EvaluateConfig, score
from pipeline.nets.rollout import predict
from pipeline.training.losses import LossConfig, loss_per_image, ssim
from pipeline.training.model_file import ModelCard
from pipeline.training.step import Routine
from pipeline.video.shards import open_videos
from tests.videos import stored_video


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
        reference = structural_similarity(
            x, y, channel_axis=0, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(ssim(a, b)[n]) == pytest.approx(reference, abs=1e-5)
        assert float(psnr(a, b)[n]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-4)


def test_extremes() -> None:
    a, _ = images(2)
    assert psnr(a, a).tolist() == [PSNR_CAP] * 2
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert float(psnr(black, white)) == 0  # unsigned bytes that wrap around would say otherwise
    assert float(ssim(black, white)) == pytest.approx(0.01**2 / (1 + 0.01**2), rel=1e-4)


def test_loss_is_the_weighted_mean() -> None:
    a, b = images(3)
    dssim = (1 - ssim(a, b)) / 2
    l1, l2 = (a - b).abs().mean((1, 2, 3)), (a - b).pow(2).mean((1, 2, 3))
    expected = (2 * dssim + 1 * l1 + 5 * l2) / 8
    torch.testing.assert_close(loss_per_image(a, b, LossConfig(2, 1, 5)), expected)
    torch.testing.assert_close(loss_per_image(a, b, LossConfig(0, 0, 3)), l2)
    with pytest.raises(ValueError, match="all zero"):
        LossConfig(0, 0, 0)


def test_quality_averages_per_frame_values_over_batches() -> None:
    a, b = images(12)
    a, b = a.view(4, 3, 3, 24, 33), b.view(4, 3, 3, 24, 33)
    quality = Quality(3, LossConfig(1, 1, 1))
    quality.add(a[:3], b[:3])
    quality.add(a[3:], b[3:])
    table = quality.table()
    assert set(table) == {"psnr", "ssim", "l1", "loss"}
    for k in range(3):
        per_frame = [peak_signal_noise_ratio(b[n, k].numpy(), a[n, k].numpy(), data_range=1) for n in range(4)]
        assert table["psnr"][str(k + 1)] == pytest.approx(np.mean(per_frame), abs=1e-3)
        assert table["l1"][str(k + 1)] == pytest.approx(float((a[:, k] - b[:, k]).abs().mean()), abs=1e-5)
    with pytest.raises(ValueError, match="3 steps"):
        quality.add(a[:, :2], b[:, :2])


def test_metrics_see_clipped_predictions_and_the_loss_unclipped_ones() -> None:
    truth = torch.ones(1, 1, 3, 16, 16)
    quality = Quality(1, LossConfig(0, 1, 0))
    quality.add(truth * 3, truth)
    assert quality.table() == {
        "psnr": {"1": PSNR_CAP},
        "ssim": {"1": 1.0},
        "l1": {"1": 0.0},
        "loss": {"1": 2.0},
    }


class Counting(torch.nn.Module):
    """A network that has understood clips whose frames are constants c, c + 1, c + 2, …: after each frame it says
    the next. Values are scaled to stay in [0, 1]."""

    unit = 1 / 255

    def __init__(self) -> None:
        super().__init__()
        self.dummy = torch.nn.Parameter(torch.zeros(()))
        self.fed: list[float] = []

    def encode(self, frames: Tensor) -> dict[str, list[Tensor]]:
        return {"frame": [frames]}

    def observe(self, encoded: dict[str, list[Tensor]], states: object = None) -> tuple:
        self.fed.append(round(float(encoded["frame"][0].detach().mean() / self.unit)))
        return ()

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        return encoded["frame"][0] + self.unit + 0 * self.dummy


def test_prediction_k_answers_for_frame_n_in_plus_k() -> None:
    """Clips whose frames are the constants 0 … 5: the output after the last seen frame is prediction 1 of frame 3."""
    clip = torch.arange(6, dtype=torch.uint8).view(1, 6, 1, 1, 1).expand(2, 6, 3, 16, 16)
    net = Counting()
    predictions, _ = predict(net, clip[:, :3].float() / 255, horizon=3, clip_feedback=True)
    assert (predictions * 255).round().mean((0, 2, 3, 4)).tolist() == [3, 4, 5]
    assert net.fed == [0, 1, 2, 3, 4]  # the seeds, then predictions 1 and 2: nothing thrown away, nothing twice

    config = SimpleNamespace(
        seeds=3, horizon=3, height=16, width=16, clip_feedback=True, loss=LossConfig(dssim=0, l1=1, l2=0)
    )
    losses = Routine(net, config)(clip)
    assert losses.shape == (2, 3)
    assert losses.max() < 1e-6
    late = Routine(net, config)(clip.flip(1))  # 5 4 3 | 2 1 0
    torch.testing.assert_close(late[0], torch.tensor([2.0, 4.0, 6.0]) / 255)  # predicts 4 5 6


def test_evaluation_scores_the_same_frames(tmp_path) -> None:
    """Through the shards: grey videos that count, the network that counts, and copy-last, 1, 2, 3 levels off."""
    stored_video(tmp_path / "s", 12, split="test")
    videos = open_videos(tmp_path / "s", "test")
    net = Counting()
    net.unit = 5 / 255
    card = ModelCard("counting", {}, 32, 32, 3, 3, "first_output", True, LossConfig(0, 1, 0), {})
    config = EvaluateConfig(fps=10, horizon=3, step=2, batch=2, pictures=2, device="cpu")
    table, pictures = score(net, card, videos, config)
    assert table["data"] == {"clips": 4, "videos": 1, "fps": 10, "seeds": 3}
    assert max(table["model"]["l1"].values()) < 1.5 / 255  # JPEG's rounding
    for k in (1, 2, 3):
        assert table["copy_last"]["l1"][str(k)] == pytest.approx(5 * k / 255, abs=1 / 255)
        expected = 10 * math.log10(1 / (5 * k / 255) ** 2)
        assert table["copy_last"]["psnr"][str(k)] == pytest.approx(expected, abs=1.5)
    assert pictures.seeds.shape == (2, 3, 3, 32, 32)
    assert pictures.predictions.shape == pictures.targets.shape == (2, 3, 3, 32, 32)


def test_evaluation_does_not_depend_on_the_batch(shards) -> None:
    from tests.test_nets import small

    net = small("lvln", height=32, width=32)
    videos = open_videos(shards / "10", "test")[:5]
    card = ModelCard("lvln", {}, 32, 32, 3, 2, "first_output", True, LossConfig(1, 1, 1), {})
    tables = [score(net, card, videos, EvaluateConfig(10, 2, 3, batch, 1, "cpu"))[0] for batch in (1, 4)]
    for predictor in ("model", "copy_last"):
        for metric, steps in tables[0][predictor].items():
            for k, value in steps.items():
                assert value == pytest.approx(tables[1][predictor][metric][k], abs=2e-4)


def test_copy_last() -> None:
    seeds = torch.rand(2, 3, 3, 4, 4)
    copied = copy_last(seeds, horizon=4)
    assert copied.shape == (2, 4, 3, 4, 4)
    assert all(torch.equal(copied[:, k], seeds[:, 2]) for k in range(4))
