"""What CI lets pass when it compares results with the committed ones, and what not; and experiments side by side."""

import runpy
from pathlib import PurePath

import pytest

from pipeline.evaluation.metrics import METRICS, RATIOS
from stages.compare import turned
from tests.support.import_closure import ROOT

differences = runpy.run_path(str(ROOT / ".ci/compare_metrics.py"))["differences"]
HEADERS = {
    "scores.csv": "predictor,region,metric,horizon_step,value,low,high",
    "curriculum.csv": "phase,fps,metric,horizon_step,value",
    "controls.csv": "features,control,metric,value,low,high,spread",
    "confusion.csv": "actual,predicted,share",
    "facts.csv": "name,value",
}
SCORES, CURRICULUM, FACTS = (f"plots/evaluate/lvln/{name}.csv" for name in ("scores", "curriculum", "facts"))
CONTROLS, CONFUSION = "plots/controls.csv", "plots/probe/pooled/confusion.csv"


def compared(file: str, old: str, new: str) -> list[str]:
    """The differences of two JSON files, or of two CSVs of these rows."""
    header = HEADERS.get(PurePath(file).name, "")
    return differences(file, f"{header}\n{old}", f"{header}\n{new}")


@pytest.mark.parametrize(
    ("predictor", "region", "metric", "limit"),
    [
        ("lvln", "whole", "psnr", METRICS["psnr"].model[0]),
        ("lvln", "moving", "psnr", METRICS["psnr"].model[1]),
        ("copy_last", "whole", "ssim", METRICS["ssim"].baseline[0]),
        ("oracle", "moving", "l1", METRICS["l1"].baseline[1]),
        ("lvln", "whole", "nyquist_ratio", RATIOS["nyquist_ratio"].model),
        ("lvln", "whole", "loss", 0.002),
    ],
)
def test_a_score_may_differ_by_its_tolerance(predictor: str, region: str, metric: str, limit: float) -> None:
    old, near, off = (f"{predictor},{region},{metric},1,{value},," for value in (1.0, 1 + limit, 1 + 1.01 * limit))
    assert not compared(SCORES, old, near)
    (line,) = compared(SCORES, old, off)
    assert line.startswith(f"{SCORES}: {predictor} {region} {metric} 1, value: 1.0 -> ")


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("metrics/lvln.json", '{"psnr": 24.0}', '{"psnr": 24.4}', True),
        ("metrics/lvln.json", '{"psnr": 24.0}', '{"psnr": 24.5}', False),
        ("metrics/lvln_moving.json", '{"psnr": 24.0}', '{"psnr": 24.5}', True),
        ("metrics/lvln.json", '{"psnr": 24.0, "ssim": 0.8}', '{"psnr": 24.0}', False),
        ("metrics/train_lvln.json", '{"val_loss": 0.048}', '{"val_loss": 0.05}', True),
        ("metrics/train_lvln.json", '{"val_loss": 0.048}', '{"val_loss": 0.051}', False),
        ("metrics/decode.json", '{"good": 400}', '{"good": 399}', False),
        ("metrics/probe_pooled.json", '{"top1": 0.5}', '{"top1": 0.6}', True),
        (CONTROLS, "encoder,chance,top1,0.125,,,0", "encoder,chance,top1,0.126,,,0", False),
        (CONTROLS, "encoder,conv1,top1,0.1,,,0", "encoder,conv1,top1,0.2,,,0.05", True),
        (CONTROLS, "encoder,conv1,top1,0.1,,,0", "encoder,conv1,top1,0.2,,,0.09", False),
        (CONFUSION, "a,a,0.5\na,b,0.5", "a,a,0.6\na,c,0.4", True),
        (CONFUSION, "a,a,0.5\na,b,0.5", "", False),
        (FACTS, "moving.frames_ssim.1,224", "moving.frames_ssim.1,222", True),
        (FACTS, "moving.frames_l1.1,224", "moving.frames_l1.1,221", False),
        (FACTS, "clips,224", "clips,223", False),
        (FACTS, "skipped.lpips,no weights", "", False),
    ],
)
def test_what_passes(file: str, old: str, new: str, same: bool) -> None:
    assert not compared(file, old, old)
    assert bool(compared(file, old, new)) != same


def test_weights_halfway_through_training_may_differ_more() -> None:
    for phase, far in (("1", 14 * METRICS["psnr"].model[0]), ("copy_last", METRICS["psnr"].baseline[0])):
        old, near, off = (f"{phase},10,psnr,1,{20 + distance}" for distance in (0, far, 1.1 * far + 0.5))
        assert not compared(CURRICULUM, old, near)
        assert compared(CURRICULUM, old, off)


# --- dvc exp show, turned --------------------------------------------------------------------------------------------


def test_a_row_is_a_number_and_a_column_an_experiment() -> None:
    rows = [
        "Experiment,rev,typ,metrics/a.json:psnr,lr,new",
        ",workspace,baseline,20.5,0.1,",
        "slow,1a2b3c4,branch,19,1e-05,3",
    ]
    header, psnr, lr, new = (line.split() for line in turned("\r\n".join(rows)).splitlines())
    assert header == ["workspace", "slow"]
    assert psnr == ["metrics/a.json:psnr", "20.5", "19"]
    assert lr == ["lr", "0.1", "1e-05"]
    assert new == ["new", "-", "3"]


@pytest.mark.parametrize("text", ["Created\n\nnow\n", "rev,Created\nworkspace,\nmain,now\n"])
def test_where_nothing_differs_it_says_so(text: str) -> None:
    """DVC leaves out every column in which all rows agree, those of names too."""
    assert turned(text).startswith("nothing differs")
