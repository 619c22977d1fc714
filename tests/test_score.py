"""The table of an evaluation: what is scored against what, over which clips, and what is said to be skipped."""

import json
import math
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import WeightsEnum
from torchvision.models import alexnet as make_alexnet

from pipeline.clips.clips import Clips
from pipeline.clips.shards import RATES, open_videos
from pipeline.evaluation.baselines import copy_last
from pipeline.evaluation.figures import CONTEXT, PREDICTION, animation, filter_sheet, prediction_sheet
from pipeline.evaluation.metrics import METRICS, RATIOS, REGIONS, Metric, digits, over, regions_of
from pipeline.evaluation.perceptual import Lpips
from pipeline.evaluation.phases import curriculum_matrix
from pipeline.evaluation.predictions import Pictures
from pipeline.evaluation.score import COMPARED, PREDICTORS, WITH_INTERVALS, EvaluateConfig, score
from pipeline.evaluation.tables import curriculum_rows, gain_rows, headline, resemblance_rows, score_rows
from pipeline.images import mean_over
from pipeline.training.model_card import ModelCard
from pipeline.training.model_file import save_model
from tests.support.evaluation import CARD, CPU
from tests.support.import_closure import ROOT
from tests.support.nets import Counting, small
from tests.support.project import write_params
from tests.support.videos import stored_video

CONFIG = EvaluateConfig(
    fps=10,
    horizon=3,
    spacing=2,
    batch=2,
    moving_threshold=0.1,
    lpips=None,
    bootstrap=50,
    seed=0,
    curriculum_clips=5,
    pictures=2,
)
MEASURED = set(METRICS) - {"lpips"}


class Copying(Counting):
    """Says the last frame again."""

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        return encoded["frame"][0]


def scored(
    net: torch.nn.Module, videos: list, *, card: ModelCard = CARD, **changes: object
) -> tuple[dict[str, dict], Pictures]:
    return score(net, card, videos, replace(CONFIG, **changes), device=CPU)


def curriculum(phases: dict, videos: dict, *, card: ModelCard = CARD, **changes: object) -> dict[str, dict]:
    return curriculum_matrix(phases, card, videos, replace(CONFIG, **changes), device=CPU)


@pytest.fixture(scope="module")
def videos(shards: Path) -> list:
    return open_videos(shards / "10", "test")[:5]


@pytest.fixture(scope="module")
def table(videos: list) -> dict[str, dict]:
    """Of a network that is not trained."""
    return scored(small("lvln", height=32, width=32), videos)[0]


def counted(folder: Path) -> tuple[Counting, list]:
    """Grey videos that count in steps of 5 levels, and the network that counts so."""
    stored_video(folder / "s", 12, split="test")
    net = Counting()
    net.unit = 5 / 255
    return net, open_videos(folder / "s", "test")


def test_evaluation_scores_the_same_frames(tmp_path: Path) -> None:
    """Through the shards: copy-last is 1, 2, 3 levels off, the mean of two half a level more."""
    net, videos = counted(tmp_path)
    table, pictures = scored(net, videos)
    assert table["data"].items() >= {"clips": 4, "videos": 1, "fps": 10, "context": 3}.items()
    assert max(table["model"]["l1"].values()) < 1.5 / 255  # JPEG's rounding
    for k in (1, 2, 3):
        assert table["copy_last"]["l1"][str(k)] == pytest.approx(5 * k / 255, abs=1 / 255)
        assert table["mean_of_two"]["l1"][str(k)] == pytest.approx(5 * (k + 0.5) / 255, abs=1 / 255)
        expected = 10 * math.log10(1 / (5 * k / 255) ** 2)
        assert table["copy_last"]["psnr"][str(k)] == pytest.approx(expected, abs=1.5)
    assert pictures.context.shape == (2, 3, 3, 32, 32)
    assert pictures.predictions.shape == pictures.targets.shape == (2, 3, 3, 32, 32)


def test_frames_that_have_a_moving_value_are_counted(videos: list) -> None:
    """Of 32 × 32 pixels windows reach those 5 or more from the border, and the second scale's those 10 or more."""
    moving = scored(Copying(), videos)[0]["data"]["moving"]
    clips = Clips(videos, length=6, spacing=2)
    frames = torch.stack([clips[i] for i in range(len(clips))]) / 255
    regions = regions_of(frames, 3, threshold=CONFIG.moving_threshold)
    moves = regions[REGIONS.index("moving")] > 0  # (clips, 3, 32, 32)
    for name, border in {"frames": 0, "frames_ssim": 5, "frames_ms_ssim": 10}.items():
        reached = moves[..., border : 32 - border, border : 32 - border].flatten(2).any(2)
        assert list(moving[name].values()) == reached.sum(0).tolist(), name
    assert sum(moving["frames"].values()) > sum(moving["frames_ms_ssim"].values()) > 0


def test_each_prediction_resembles_its_own_frame(tmp_path: Path) -> None:
    net, videos = counted(tmp_path)
    matrix = scored(net, videos)[0]["resembles"]
    assert set(matrix) == {"1", "2", "3"}
    for k, row in matrix.items():
        assert list(row) == ["0", "1", "2", "3", "4", "5"]
        assert max(row, key=row.get) == str(3 + int(k) - 1)
        assert row["0"] == pytest.approx(-20 * math.log10(5 * (2 + int(k)) / 255), abs=1)
    late = scored(net, videos, card=replace(CARD, off_by_one=True))[0]["resembles"]
    assert [max(row, key=row.get) for row in late.values()] == ["4", "5", "5"]  # one ahead of what it is scored against


def test_metrics_see_clipped_predictions_and_the_loss_unclipped_ones(tmp_path: Path) -> None:
    net, videos = counted(tmp_path)
    net.unit = 7.0
    table, pictures = scored(net, videos, card=replace(CARD, clip_feedback=False))
    assert pictures.predictions.amax() > 20
    assert 0.8 < table["model"]["l1"]["3"] < 1
    assert table["model"]["loss"]["3"] > 20


def test_one_group_and_no_motion_are_said_not_invented(tmp_path: Path) -> None:
    table, _ = scored(*counted(tmp_path))
    assert set(table["model"]) == MEASURED | {"loss"}  # nor ratios: flat frames have neither gradients nor a spectrum
    assert set(table["model_over_copy_last"]) == {"psnr", "ssim"}
    none = {"1": 0, "2": 0, "3": 0}
    assert table["data"]["moving"] == dict.fromkeys(("share", "frames", "frames_ssim", "frames_ms_ssim"), none)
    assert set(table["data"]["skipped"]) == {"lpips", "intervals", "moving"}
    assert table["data"]["groups"] == 1
    json.dumps(table, allow_nan=False)


def test_the_whole_table(videos: list, table: dict[str, dict]) -> None:
    expected = {over(region, name) for name in MEASURED for region in REGIONS}
    expected |= {"loss", "nyquist_ratio", "gradient_ratio"}
    assert set(WITH_INTERVALS) == {over(region, name) for name in ("psnr", "ssim") for region in REGIONS}
    ends = {name + end for name in WITH_INTERVALS for end in ("_low", "_high")}
    assert set(COMPARED) == {"copy_last", "constant_velocity", "half_velocity"}
    assert set(table) == {*PREDICTORS, "resembles", "data", *(f"model_over_{name}" for name in COMPARED)}
    for name in PREDICTORS:
        assert set(table[name]) == expected | (ends if name == "model" else set())
    assert all(set(steps) == {"1", "2", "3"} for name in PREDICTORS for steps in table[name].values())
    for name in COMPARED:
        difference = table[f"model_over_{name}"]
        assert set(difference) == set(WITH_INTERVALS) | ends
        for metric in WITH_INTERVALS:
            for k, value in difference[metric].items():
                assert value == pytest.approx(table["model"][metric][k] - table[name][metric][k], abs=2e-6)
                assert difference[f"{metric}_low"][k] < value < difference[f"{metric}_high"][k]
    clips = Clips(videos, length=6, spacing=2)
    assert table["data"]["clips"] == len(clips)
    assert table["data"]["groups"] == len({(video.info.action, video.info.group) for video in videos}) == 5
    assert table["data"]["skipped"].keys() == {"lpips"}
    assert 0 < table["data"]["moving"]["share"]["1"] < 0.5


def test_the_table_as_tidy_rows(table: dict[str, dict]) -> None:
    """A row a value, with its interval where it has one; the model goes by its name."""
    rows = score_rows(table, model="lvln")
    assert {row["predictor"] for row in rows} == {"lvln", *PREDICTORS} - {"model"}
    assert len(rows) == (len(REGIONS) * len(MEASURED) + 3) * len(PREDICTORS) * 3
    found = {tuple(row.values())[:4]: tuple(row.values())[4:] for row in rows}
    assert len(found) == len(rows)
    model = table["model"]
    ends = model["psnr_moving_low"]["2"], model["psnr_moving_high"]["2"]
    assert found["lvln", "moving", "psnr", 2] == (model["psnr_moving"]["2"], *ends)
    assert found["oracle", "whole", "ms_ssim", 3] == (table["oracle"]["ms_ssim"]["3"], None, None)
    gains = gain_rows(table)
    assert len(gains) == len(COMPARED) * len(WITH_INTERVALS) * 3
    over = table["model_over_half_velocity"]
    row = {"baseline": "half_velocity", "region": "moving", "metric": "ssim", "horizon_step": 1}
    assert (
        row
        | {
            "value": over["ssim_moving"]["1"],
            **{end: over[f"ssim_moving_{end}"]["1"] for end in ("low", "high")},
        }
        in gains
    )
    assert {"horizon_step": 3, "frame": 5, "psnr": table["resembles"]["3"]["5"]} in resemblance_rows(table)
    matrix = {"2": {"10": {"psnr": {"1": 20.0, "2": 19.0}}}, "copy_last": {"10": {"psnr": {"1": 18.0}}}}
    assert [tuple(row.values()) for row in curriculum_rows(matrix)] == [
        *[("2", 10, "psnr", 1, 20.0), ("2", 10, "psnr", 2, 19.0), ("copy_last", 10, "psnr", 1, 18.0)]
    ]


def test_the_headlines_are_one_frame_ahead(table: dict[str, dict], tmp_path: Path) -> None:
    for region in ("whole", "moving"):
        found = headline(table, region=region)
        assert list(found) == ["psnr", "ssim", "vs_copy", "vs_flow"]
        for name, baseline in (("vs_copy", "copy_last"), ("vs_flow", "constant_velocity")):
            psnr = table["model"][over(region, "psnr")]["1"] - table[baseline][over(region, "psnr")]["1"]
            assert found[name] == pytest.approx(psnr, abs=0.006)
        assert found["ssim"] == round(table["model"][over(region, "ssim")]["1"], 3)
    still, _ = scored(*counted(tmp_path))
    assert headline(still, region="moving") == {}


def test_a_new_metric_is_one_entry(videos: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the tables of all predictors, and CI knows its tolerances."""

    def brightness(prediction: Tensor, target: Tensor, regions: Tensor) -> Tensor:
        return mean_over(prediction - target, regions)

    new = Metric(brightness, digits=1, model=(1.0, 2.0), baseline=(3.0, 4.0), windowed=True)
    monkeypatch.setitem(METRICS, "brightness", new)
    table, _ = scored(Copying(), videos)
    for name in PREDICTORS:
        assert len(table[name]["brightness"]) == len(table[name]["brightness_moving"]) == 3
    assert table["data"]["moving"]["frames_brightness"] == table["data"]["moving"]["frames"]
    assert digits("brightness") == 1
    allowed = runpy.run_path(str(ROOT / ".ci/compare_metrics.py"))["allowed"]
    rows = [
        row for row in score_rows(table, model="lvln") if row["metric"] == "brightness" and row["horizon_step"] == 1
    ]
    limits = {(row["predictor"], row["region"]): allowed("scores.csv", row, "value") for row in rows}
    assert (limits["lvln", "whole"], limits["lvln", "moving"]) == (1, 2)
    assert (limits["oracle", "whole"], limits["oracle", "moving"]) == (3, 4)
    assert allowed("facts.csv", {"name": "moving.frames_brightness.1"}, "value") == 2


def test_a_model_that_copies_is_copy_last(videos: list) -> None:
    """Its ratios are those of real frames, some frames earlier."""
    table, _ = scored(Copying(), videos)
    for metric, values in table["copy_last"].items():
        assert values == pytest.approx(table["model"][metric], abs=1e-5), metric
    assert all(value == 0 for steps in table["model_over_copy_last"].values() for value in steps.values())
    clips = Clips(videos, length=6, spacing=2)
    frames = torch.stack([clips[i] for i in range(len(clips))]).transpose(0, 1) / 255  # (6, clips, 3, 32, 32)
    for name, ratio in RATIOS.items():
        last, *truth = (ratio.measure(frame).mean().item() for frame in frames[2:])
        assert list(table["copy_last"][name].values()) == pytest.approx([last / value for value in truth], rel=1e-3)
    assert table["mean_of_two"]["gradient_ratio"]["1"] < 0.9
    assert [max(row, key=row.get) for row in table["resembles"].values()] == ["2", "2", "2"]
    assert table["oracle"]["psnr"]["1"] > table["copy_last"]["psnr"]["1"] + 3


class Diverging(Counting):
    """Says the last frame again, but for a value of the second clip of a batch from horizon step 2 on."""

    value = math.nan

    def observe(self, encoded: dict[str, list[Tensor]], states: tuple | None = None) -> tuple:
        return (1 if states is None else states[0] + 1,)  # how many frames it was fed

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        frame = encoded["frame"][0].clone()
        if states[0] > CARD.context:
            frame[1, 0, 5, 5] = self.value
        return frame


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_predictions_that_are_not_finite_are_an_error(videos: list, value: float) -> None:
    """Not frames without a value: the mean of the others would be too good."""
    card = replace(CARD, clip_feedback=False)
    net = Diverging()
    net.value = value
    said = r"predicts values that are not finite, first at horizon step 2: .*optimizer\.lr"
    with pytest.raises(ValueError, match=rf"evaluate lvln: network 'model' {said}"):
        scored(net, videos, card=card)
    with pytest.raises(ValueError, match=rf"lvln's phases at 10 fps: network '2' {said}"):
        curriculum({"1": Copying(), "2": net}, {10: videos}, card=card)


class Grid(Counting):
    """The last frame with a faint grid of period two over it."""

    def decode(self, encoded: dict[str, list[Tensor]], states: tuple) -> Tensor:
        frame = encoded["frame"][0]
        rows = torch.arange(frame.shape[2]).view(-1, 1) % 2
        return 0.9 * frame + 0.1 * rows


def test_a_grid_shows_in_the_nyquist_ratio(videos: list) -> None:
    table, _ = scored(Grid(), videos)
    assert table["model"]["nyquist_ratio"]["1"] > 10 * table["copy_last"]["nyquist_ratio"]["1"]


def test_evaluation_does_not_depend_on_the_batch(videos: list, table: dict[str, dict]) -> None:
    assert CONFIG.batch == 2
    tables = [table, scored(small("lvln", height=32, width=32), videos, batch=3)[0]]
    for name in set(tables[0]) - {"data"}:
        for metric, steps in tables[0][name].items():
            for k, value in steps.items():
                assert value == pytest.approx(tables[1][name][metric][k], abs=2e-4, rel=1e-3), (name, metric)
    assert tables[0]["data"] == tables[1]["data"]


def test_scoring_imports_little() -> None:
    """So that it runs where there is PyTorch and not much else."""
    without = ("webdataset", "dvc", "ruamel", "cv2", "pandas", "torchmetrics")
    code = f"import sys; sys.modules |= dict.fromkeys({without}); import pipeline.evaluation.phases"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ---- the curriculum matrix


def test_curriculum_matrix(shards: Path) -> None:
    """A network that copies is copy-last at every rate; at 25 fps frames are nearer to each other than at 10."""
    videos = {fps: open_videos(shards / str(fps), "test") for fps in RATES}
    matrix = curriculum({"1": Copying(), "2": Counting()}, videos)
    assert set(matrix) == {"1", "2", "copy_last"}
    assert all(list(rates) == ["25", "15", "10"] for rates in matrix.values())
    for fps, rows in matrix["copy_last"].items():
        for metric, values in rows.items():
            assert values == pytest.approx(matrix["1"][fps][metric], abs=1e-4)
            assert values != pytest.approx(matrix["2"][fps][metric], abs=1e-4)
    psnr = {fps: matrix["copy_last"][fps]["psnr"]["1"] for fps in ("25", "15", "10")}
    assert psnr["25"] > psnr["15"] > psnr["10"]
    clips = Clips(videos[10], length=6, spacing=2, at_most=5, seed=0)
    last = torch.cat([copy_last(clips[i][None, :3] / 255, horizon=3) for i in range(5)])
    truth = torch.stack([clips[i][3:] / 255 for i in range(5)])
    expected = -10 * torch.log10((last - truth).square().mean((2, 3, 4))).mean(0)
    assert list(matrix["copy_last"]["10"]["psnr"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
    assert curriculum({}, videos, seed=1)["copy_last"] != matrix["copy_last"]
    together = curriculum({}, videos, batch=5)["copy_last"]["15"]["psnr"]
    assert together == pytest.approx(matrix["copy_last"]["15"]["psnr"], abs=1e-4)


def test_a_rate_without_a_clip_long_enough_has_no_entry(tmp_path: Path) -> None:
    _, videos = counted(tmp_path)
    assert set(curriculum({}, {25: videos}, horizon=9)["copy_last"]) == {"25"}
    assert curriculum({}, {25: videos}, horizon=10) == {"copy_last": {}}


# ---- LPIPS


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A random AlexNet's state dict, and a file with it but for the classifier."""
    torch.manual_seed(0)
    state = make_alexnet(weights=None).state_dict()
    file = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save({key: value for key, value in state.items() if key.startswith("features")}, file)
    return file, state


def test_lpips_is_torchmetrics(alexnet: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

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
    table, _ = scored(Copying(), videos[:2], lpips=str(alexnet[0]))
    assert table["data"]["skipped"] == {}
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


@pytest.mark.parametrize(("height", "width"), [(32, 64), (160, 128)])
def test_prediction_sheet(height: int, width: int, tmp_path: Path) -> None:
    """Predictions, which are clipped, lie under their targets; under the context is nothing."""
    frames = {
        name: torch.full((2, count, 3, height, width), level)
        for name, count, level in (("context", 3, 0.0), ("targets", 2, 0.4), ("predictions", 2, 7.0))
    }
    frames["predictions"][:, :, 1:] = 0.0  # red
    prediction_sheet(tmp_path / "sheet.png", **frames, title="t")
    with Image.open(tmp_path / "sheet.png") as page:
        scale = max(1, 128 // height)
        down, right = scale * height + 6, scale * width + 6
        left = page.width - 5 * right
        shown = [[page.getpixel((left + (c + 0.5) * right, 44 + (r + 0.5) * down)) for c in range(5)] for r in range(4)]
        assert page.height == 44 + 4 * down
    black, grey, red, white = (0, 0, 0), (102, 102, 102), (255, 0, 0), (255, 255, 255)
    assert shown == 2 * [[black] * 3 + [grey] * 2, [white] * 3 + [red] * 2]


def test_filter_sheet_is_blue_white_and_red(tmp_path: Path) -> None:
    states = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 8, 8)
    filter_sheet(tmp_path / "f.png", frames=torch.zeros(3, 3, 32, 32), before=0 * states, after=states, title="5×5")
    with Image.open(tmp_path / "f.png") as page:
        left = page.width - 3 * 134
        shown = [[page.getpixel((left + c * 134 + 64, 44 + r * 134 + 64)) for c in range(3)] for r in range(3)]
    assert shown[:2] == [[(0, 0, 0)] * 3, [(255, 255, 255)] * 3]
    assert shown[2] == [(33, 102, 172), (255, 255, 255), (178, 24, 43)]


def test_animation(tmp_path: Path) -> None:
    context, targets, predictions = (
        torch.full((2, count, 3, 32, 32), level) for count, level in ((3, 0.0), (4, 0.5), (4, 0.0))
    )
    targets[:, :, 0] = 0.2
    for name in ("a.gif", "b.gif"):
        animation(tmp_path / name, context=context, targets=targets, predictions=predictions, title="t")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames >= 2  # PIL joins equal frames, as those of the context but for their labels
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
    assert border == pytest.approx(CONTEXT, abs=3)
    assert orange == pytest.approx(PREDICTION, abs=3)


def test_stage(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From model files to metrics, curves and pictures, twice with the same bytes."""
    from stages.evaluate import main

    write_params(tmp_path, {"evaluate": {"pictures": 1, "spacing": 12}, "hardware": {"device": "cpu"}})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shards").symlink_to(shards)
    for file in ("lvln", "phases/lvln/1", "phases/lvln/2"):
        save_model(tmp_path / f"models/{file}.safetensors", small("lvln", height=32, width=32), CARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluate", "lvln"])
    made = []
    for _ in range(2):
        main()
        files = [*Path("metrics").iterdir(), *Path("plots/evaluate/lvln").iterdir()]
        made.append({file.name: file.read_bytes() for file in files})
    assert made[0] == made[1]
    tables = {"scores.csv", "gains.csv", "resembles.csv", "curriculum.csv", "facts.csv"}
    assert set(made[0]) == {"lvln.json", "lvln_moving.json", *tables, "predictions.png", "predictions.gif"}
    header, *rows = made[0]["curriculum.csv"].decode().splitlines()
    assert header == "phase,fps,metric,horizon_step,value"
    assert {row.split(",")[0] for row in rows} == {"1", "2", "copy_last"}
    assert made[0]["scores.csv"].startswith(b"predictor,region,metric,horizon_step,value,low,high\nlvln,whole,")
