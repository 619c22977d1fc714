"""The table of an evaluation: what is scored against what, over which clips, and what is said to be absent."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.clips.clips import Clips
from pipeline.clips.shards import RATES, open_videos
from pipeline.evaluation.artifacts import gradient_energy, nyquist_share
from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.figures import animation
from pipeline.evaluation.perceptual import Lpips
from pipeline.evaluation.phases import curriculum_matrix
from pipeline.evaluation.score import PREDICTORS, EvaluateConfig, horizon_rows, score
from pipeline.settings import read_yaml
from pipeline.training.losses import LossConfig
from pipeline.training.model_card import ModelCard
from pipeline.training.model_file import save_model
from tests.import_closure import ROOT
from tests.test_nets import VARIANTS, small
from tests.test_quality import Counting
from tests.videos import stored_video

CONFIG = EvaluateConfig(
    fps=10,
    horizon=3,
    step=2,
    batch=2,
    moving_threshold=0.1,
    lpips=None,
    bootstrap=50,
    seed=0,
    curriculum_clips=5,
    pictures=2,
    device="cpu",
)
CARD = ModelCard("lvln", {}, 32, 32, 3, 3, "first_output", True, LossConfig(0, 1, 0), {}, "")
METRICS = {"psnr", "ssim", "ms_ssim", "l1", "gradient_difference"}


class Copying(Counting):
    """Says the last frame again."""

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        return encoded["frame"][0]


@pytest.fixture(scope="module")
def videos(shards: Path) -> list:
    return open_videos(shards / "10", "test")[:5]


def counted(folder: Path) -> tuple[Counting, list]:
    """Grey videos that count in steps of 5 levels, and the network that counts so."""
    stored_video(folder / "s", 12, split="test")
    net = Counting()
    net.unit = 5 / 255
    return net, open_videos(folder / "s", "test")


def test_evaluation_scores_the_same_frames(tmp_path: Path) -> None:
    """Through the shards: copy-last is 1, 2, 3 levels off, the mean of two half a level more."""
    net, videos = counted(tmp_path)
    table, pictures = score(net, CARD, videos, CONFIG)
    data = table["data"]
    assert {key: data[key] for key in ("clips", "videos", "fps", "seeds")} == {
        "clips": 4,
        "videos": 1,
        "fps": 10,
        "seeds": 3,
    }
    assert max(table["model"]["l1"].values()) < 1.5 / 255  # JPEG's rounding
    for k in (1, 2, 3):
        assert table["copy_last"]["l1"][str(k)] == pytest.approx(5 * k / 255, abs=1 / 255)
        assert table["mean_of_two"]["l1"][str(k)] == pytest.approx(5 * (k + 0.5) / 255, abs=1 / 255)
        expected = 10 * math.log10(1 / (5 * k / 255) ** 2)
        assert table["copy_last"]["psnr"][str(k)] == pytest.approx(expected, abs=1.5)
    assert pictures.seeds.shape == (2, 3, 3, 32, 32)
    assert pictures.predictions.shape == pictures.targets.shape == (2, 3, 3, 32, 32)


def test_frames_that_have_a_moving_value_are_counted(videos: list) -> None:
    """Of 32 × 32 pixels windows reach those 5 or more from the border, and the second scale's those 10 or more."""
    moving = score(Copying(), CARD, videos, CONFIG)[0]["data"]["moving"]
    clips = Clips(videos, length=6, step=2)
    frames = torch.stack([clips[i] for i in range(len(clips))]) / 255
    moves = (frames[:, 3:] - frames[:, 2:-1]).abs().amax(2) > CONFIG.moving_threshold  # (clips, 3, 32, 32)
    for name, border in {"frames": 0, "frames_ssim": 5, "frames_ms_ssim": 10}.items():
        reached = moves[..., border : 32 - border, border : 32 - border].flatten(2).any(2)
        assert list(moving[name].values()) == reached.sum(0).tolist(), name
    assert sum(moving["frames"].values()) > sum(moving["frames_ms_ssim"].values()) > 0


def test_each_prediction_resembles_its_own_frame(tmp_path: Path) -> None:
    net, videos = counted(tmp_path)
    matrix = score(net, CARD, videos, CONFIG)[0]["resembles"]
    assert set(matrix) == {"1", "2", "3"}
    for k, row in matrix.items():
        assert list(row) == ["0", "1", "2", "3", "4", "5"]
        assert max(row, key=row.get) == str(3 + int(k) - 1)
        assert row["0"] == pytest.approx(-20 * math.log10(5 * (2 + int(k)) / 255), abs=1)
    late = score(net, replace(CARD, feeding="second_output"), videos, CONFIG)[0]["resembles"]
    assert [max(row, key=row.get) for row in late.values()] == ["4", "5", "5"]  # one ahead of what it is scored on


def test_metrics_see_clipped_predictions_and_the_loss_unclipped_ones(tmp_path: Path) -> None:
    net, videos = counted(tmp_path)
    net.unit = 7.0
    table, pictures = score(net, replace(CARD, clip_feedback=False), videos, CONFIG)
    assert pictures.predictions.amax() > 20
    assert 0.8 < table["model"]["l1"]["3"] < 1
    assert table["model"]["loss"]["3"] > 20


def test_one_group_and_no_motion_are_said_not_invented(tmp_path: Path) -> None:
    net, videos = counted(tmp_path)
    table, _ = score(net, CARD, videos, CONFIG)
    assert set(table["model"]) == METRICS | {"loss"}  # nor ratios: flat frames have neither gradients nor a spectrum
    assert set(table["model_over_copy_last"]) == {"psnr", "ssim"}
    none = {"1": 0, "2": 0, "3": 0}
    assert table["data"]["moving"] == dict.fromkeys(("share", "frames", "frames_ssim", "frames_ms_ssim"), none)
    assert set(table["data"]["absent"]) == {"lpips", "intervals", "moving"}
    assert table["data"]["groups"] == 1
    json.dumps(table, allow_nan=False)


def test_the_whole_table(videos: list) -> None:
    net = small("lvln", height=32, width=32)
    table, _ = score(net, CARD, videos, CONFIG)
    metrics = METRICS | {f"{name}_moving" for name in METRICS} | {"loss", "nyquist_ratio", "gradient_ratio"}
    ranged = [name + moving for name in ("psnr", "ssim") for moving in ("", "_moving")]
    ends = {name + end for name in ranged for end in ("_low", "_high")}
    assert set(table) == {
        *PREDICTORS,
        "resembles",
        "data",
        *(f"model_over_{name}" for name in ("copy_last", "constant_velocity", "half_velocity")),
    }
    for name in PREDICTORS:
        assert set(table[name]) == metrics | (ends if name == "model" else set())
    assert all(set(steps) == {"1", "2", "3"} for name in PREDICTORS for steps in table[name].values())
    for name in ("copy_last", "constant_velocity", "half_velocity"):
        difference = table[f"model_over_{name}"]
        assert set(difference) == set(ranged) | ends
        for metric in ranged:
            for k, value in difference[metric].items():
                assert value == pytest.approx(table["model"][metric][k] - table[name][metric][k], abs=2e-6)
                assert difference[f"{metric}_low"][k] < value < difference[f"{metric}_high"][k]
    clips = Clips(videos, length=6, step=2)
    assert table["data"]["clips"] == len(clips)
    assert table["data"]["groups"] == len({(video.info.action, video.info.group) for video in videos}) == 5
    assert table["data"]["absent"].keys() == {"lpips"}
    assert 0 < table["data"]["moving"]["share"]["1"] < 0.5
    rows = horizon_rows(table)
    assert len(rows) == len(metrics) * len(PREDICTORS) * 3
    assert {"step": 2, "predictor": "oracle", "metric": "psnr", "value": table["oracle"]["psnr"]["2"]} in rows


def test_a_model_that_copies_is_copy_last(videos: list) -> None:
    """Its ratios are those of real frames, some steps earlier."""
    table, _ = score(Copying(), CARD, videos, CONFIG)
    for metric, values in table["copy_last"].items():
        assert values == pytest.approx(table["model"][metric], abs=1e-5), metric
    assert all(value == 0 for steps in table["model_over_copy_last"].values() for value in steps.values())
    clips = Clips(videos, length=6, step=2)
    frames = torch.stack([clips[i] for i in range(len(clips))]).transpose(0, 1) / 255  # (6, clips, 3, 32, 32)
    for ratio, of in (("gradient_ratio", gradient_energy), ("nyquist_ratio", nyquist_share)):
        last, *truth = (of(frame).mean().item() for frame in frames[2:])
        assert list(table["copy_last"][ratio].values()) == pytest.approx([last / value for value in truth], rel=1e-3)
    assert table["mean_of_two"]["gradient_ratio"]["1"] < 0.9
    assert [max(row, key=row.get) for row in table["resembles"].values()] == ["2", "2", "2"]
    assert table["oracle"]["psnr"]["1"] > table["copy_last"]["psnr"]["1"] + 3


class Diverging(Counting):
    """Says the last frame again, but for a value of the second clip of a batch from the second step ahead on."""

    value = math.nan

    def observe(self, encoded: dict[str, list[Tensor]], states: tuple | None = None) -> tuple:
        return (1 if states is None else states[0] + 1,)  # how many frames it was fed

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        frame = encoded["frame"][0].clone()
        if states[0] > CARD.seeds:
            frame[1, 0, 5, 5] = self.value
        return frame


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_an_error(videos: list, value: float) -> None:
    """Not frames without a value: the mean of the others would be too good."""
    card = replace(CARD, clip_feedback=False)
    net = Diverging()
    net.value = value
    said = r"evaluate lvln: network 'model' predicts values that are not finite, first 2 step\(s\) ahead.*optimizer\.lr"
    with pytest.raises(ValueError, match=said):
        score(net, card, videos, CONFIG)
    with pytest.raises(ValueError, match=r"lvln's phases at 10 fps: network '2' predicts .*, first 2 step\(s\) ahead"):
        curriculum_matrix({"1": Copying(), "2": net}, card, {10: videos}, CONFIG)


class Grid(Counting):
    """The last frame with a faint grid of period two over it."""

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        frame = encoded["frame"][0]
        rows = torch.arange(frame.shape[2]).view(-1, 1) % 2
        return 0.9 * frame + 0.1 * rows


def test_a_grid_shows_in_the_nyquist_ratio(videos: list) -> None:
    table, _ = score(Grid(), CARD, videos, CONFIG)
    assert table["model"]["nyquist_ratio"]["1"] > 10 * table["copy_last"]["nyquist_ratio"]["1"]


def test_evaluation_does_not_depend_on_the_batch(videos: list) -> None:
    net = small("lvln", height=32, width=32)
    tables = [score(net, CARD, videos, replace(CONFIG, batch=batch))[0] for batch in (1, 4)]
    for name in set(tables[0]) - {"data"}:
        for metric, steps in tables[0][name].items():
            for k, value in steps.items():
                assert value == pytest.approx(tables[1][name][metric][k], abs=2e-4, rel=1e-3), (name, metric)
    assert tables[0]["data"] == tables[1]["data"]


def test_scoring_imports_little() -> None:
    """So that it runs where there is PyTorch and not much else."""
    without = ("webdataset", "dvc", "ruamel", "cv2", "matplotlib", "pandas", "torchmetrics")
    code = f"import sys; sys.modules |= dict.fromkeys({without}); import pipeline.evaluation.phases"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- the curriculum matrix


def test_curriculum_matrix(shards: Path) -> None:
    """A network that copies is copy-last at every rate; at 25 fps frames are nearer to each other than at 10."""
    videos = {fps: open_videos(shards / str(fps), "test") for fps in RATES}
    matrix = curriculum_matrix({"1": Copying(), "2": Counting()}, CARD, videos, CONFIG)
    assert set(matrix) == {"1", "2", "copy_last"}
    assert all(list(rates) == ["25", "15", "10"] for rates in matrix.values())
    for fps, metrics in matrix["copy_last"].items():
        for metric, values in metrics.items():
            assert values == pytest.approx(matrix["1"][fps][metric], abs=1e-4)
            assert values != pytest.approx(matrix["2"][fps][metric], abs=1e-4)
    psnr = {fps: matrix["copy_last"][fps]["psnr"]["1"] for fps in ("25", "15", "10")}
    assert psnr["25"] > psnr["15"] > psnr["10"]
    clips = Clips(videos[10], length=6, step=2, at_most=5, seed=0)
    last = torch.cat([copy_last(clips[i][None, :3] / 255, horizon=3) for i in range(5)])
    truth = torch.stack([clips[i][3:] / 255 for i in range(5)])
    expected = -10 * torch.log10((last - truth).square().mean((2, 3, 4))).mean(0)
    assert list(matrix["copy_last"]["10"]["psnr"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
    other = curriculum_matrix({}, CARD, videos, replace(CONFIG, seed=1))
    assert other["copy_last"] != matrix["copy_last"]
    assert curriculum_matrix({}, CARD, videos, replace(CONFIG, batch=5))["copy_last"]["15"]["psnr"] == pytest.approx(
        matrix["copy_last"]["15"]["psnr"], abs=1e-4
    )


def test_a_rate_without_a_clip_long_enough_has_no_entry(tmp_path: Path) -> None:
    _, videos = counted(tmp_path)
    assert set(curriculum_matrix({}, CARD, {25: videos}, replace(CONFIG, horizon=9))["copy_last"]) == {"25"}
    assert curriculum_matrix({}, CARD, {25: videos}, replace(CONFIG, horizon=10)) == {"copy_last": {}}


# ---- LPIPS


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A random AlexNet's state dict, and a file with it but for the classifier."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    state = alexnet(weights=None).state_dict()
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({key: value for key, value in state.items() if key.startswith("features")}, file)
    return file, state


def test_lpips_is_torchmetrics(alexnet: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
    from torchvision.models import WeightsEnum

    file, state = alexnet
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    a, b = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    b[1] = a[1]
    region = torch.zeros(3, 64, 64)
    region[:2, 10:20, 10:30] = 1
    found = Lpips(str(file))(a, b, torch.stack([torch.ones(3, 64, 64), region]))
    reference = learned_perceptual_image_patch_similarity(a, b, net_type="alex", reduction="none", normalize=True)
    assert (reference[[0, 2]] > 1e-4).all()
    torch.testing.assert_close(found[0], reference)
    assert found[1].isnan().tolist() == [False, False, True]
    assert (found[0, 1], found[1, 1]) == (0, 0)
    half = a[:1].clone()  # differs on the left only, so more there
    half[..., :32] = b[:1, ..., :32]
    left = torch.zeros(2, 1, 64, 64)
    left[0, :, :, :32], left[1, :, :, 32:] = 1, 1
    _, there, elsewhere = Lpips(str(file))(half, a[:1], torch.cat([torch.ones(1, 1, 64, 64), left]))
    assert there > 2 * elsewhere > 0


def test_lpips_in_the_table(alexnet: tuple, videos: list) -> None:
    table, _ = score(Copying(), CARD, videos[:2], replace(CONFIG, lpips=str(alexnet[0])))
    assert table["data"]["absent"] == {}
    assert 0 < table["oracle"]["lpips"]["1"] < table["copy_last"]["lpips"]["1"]
    assert table["copy_last"]["lpips_moving"]["1"] > table["copy_last"]["lpips"]["1"]


def test_lpips_says_which_file_it_wants(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluate.lpips: .*none.pth cannot be read"):
        Lpips(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("x")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("text.pth", "other.pth"):
        with pytest.raises(ValueError, match=rf"evaluate.lpips: .*{name} is not a state dict of torchvision's AlexNet"):
            Lpips(str(tmp_path / name))


# ---- the stage and its pictures


def test_animation(tmp_path: Path) -> None:
    seeds, targets, predictions = (
        torch.zeros(2, 3, 3, 32, 32),
        torch.full((2, 4, 3, 32, 32), 0.5),
        torch.zeros(2, 4, 3, 32, 32),
    )
    targets[:, :, 0] = 0.2
    for name in ("a.gif", "b.gif"):
        animation(tmp_path / name, seeds=seeds, targets=targets, predictions=predictions, title="t")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames >= 2  # PIL joins equal frames, as those of the seeds but for their labels
        colours = {}
        for t in (0, gif.n_frames - 1):
            gif.seek(t)
            page = gif.convert("RGB")
            colours[t] = [page.getpixel((6 + c * 134 + 64, 44 + 134 + 64)) for c in range(3)]
            colours[t].append(page.getpixel((140 - 2, 100)))
    *still, border = colours.pop(0)
    assert still == [(0, 0, 0)] * 3
    ((truth, prediction, error, orange),) = colours.values()
    assert truth == pytest.approx((51, 128, 128), abs=3)
    assert prediction == (0, 0, 0)
    assert error == (255, 255, 255)  # 4 · 0.5, clipped
    assert border == pytest.approx((110, 110, 110), abs=3)
    assert orange == pytest.approx((230, 120, 0), abs=3)


def test_stage(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From model files to metrics, curves and pictures, twice with the same bytes."""
    from ruamel.yaml import YAML

    from stages.evaluate import main

    params = read_yaml(ROOT / "presets" / "tiny.yaml")
    params["evaluate"]["pictures"] = 1
    YAML().dump(params, tmp_path / "params.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shards").symlink_to(shards)
    net = small("lvln", height=32, width=32)
    card = replace(CARD, net=asdict(VARIANTS["lvln"][1]))
    for file in ("lvln", "phases/lvln/1", "phases/lvln/2"):
        save_model(tmp_path / f"models/{file}.safetensors", net, card)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluate", "lvln"])
    made = []
    for _ in range(2):
        main()
        files = [Path(f"plots/evaluate_lvln.{kind}") for kind in ("csv", "png", "gif")]
        made.append([file.read_bytes() for file in [Path("metrics/evaluate_lvln.json"), *files]])
    assert made[0] == made[1]
    table = json.loads(made[0][0])
    assert set(table["curriculum"]) == {"1", "2", "copy_last"}
    assert table["curriculum"]["2"]["25"]["psnr"].keys() == {"1", "2", "3"}
    assert made[0][1].decode().splitlines()[0] == "step,predictor,metric,value"
