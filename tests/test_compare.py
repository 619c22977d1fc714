"""What CI lets pass when it compares results with the committed ones, and what not; and experiments side by side."""

import runpy

import pytest

from pipeline.evaluation.metrics import METRICS, RATIOS
from stages.compare import turned
from tests.support.import_closure import ROOT

differences = runpy.run_path(str(ROOT / ".ci/compare_metrics.py"))["differences"]
SCORES = "predictor,region,metric,horizon_step,value,low,high\n"
ACCURACY = "features,control,metric,value,low,high,spread\n"
CONFUSION = "actual,predicted,share\n"
FACTS = "name,value\n"


def scores(predictor: str, region: str, metric: str, value: float) -> str:
    return f"{SCORES}{predictor},{region},{metric},1,{value},,\n"


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
    file, old = "plots/evaluate/lvln/scores.csv", scores(predictor, region, metric, 1.0)
    assert not differences(file, old, scores(predictor, region, metric, 1 + limit))
    (line,) = differences(file, old, scores(predictor, region, metric, 1 + 1.01 * limit))
    assert line.startswith(f"{file}: {predictor} {region} {metric} 1, value: 1.0 -> ")


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
        (
            "plots/controls.csv",
            f"{ACCURACY}encoder,chance,top1,0.125,,,0\n",
            f"{ACCURACY}encoder,chance,top1,0.126,,,0\n",
            False,
        ),
        (
            "plots/controls.csv",
            f"{ACCURACY}encoder,conv1,top1,0.1,,,0\n",
            f"{ACCURACY}encoder,conv1,top1,0.2,,,0.05\n",
            True,
        ),
        (
            "plots/controls.csv",
            f"{ACCURACY}encoder,conv1,top1,0.1,,,0\n",
            f"{ACCURACY}encoder,conv1,top1,0.2,,,0.09\n",
            False,
        ),
        ("plots/probe/pooled/confusion.csv", f"{CONFUSION}a,a,0.5\na,b,0.5\n", f"{CONFUSION}a,a,0.6\na,c,0.4\n", True),
        ("plots/probe/pooled/confusion.csv", f"{CONFUSION}a,a,0.5\na,b,0.5\n", CONFUSION, False),
        (
            "plots/evaluate/lvln/facts.csv",
            f"{FACTS}moving.frames_ssim.1,224\n",
            f"{FACTS}moving.frames_ssim.1,222\n",
            True,
        ),
        (
            "plots/evaluate/lvln/facts.csv",
            f"{FACTS}moving.frames_l1.1,224\n",
            f"{FACTS}moving.frames_l1.1,221\n",
            False,
        ),
        ("plots/evaluate/lvln/facts.csv", f"{FACTS}clips,224\n", f"{FACTS}clips,223\n", False),
        ("plots/evaluate/lvln/facts.csv", f"{FACTS}skipped.lpips,no weights\n", FACTS, False),
    ],
)
def test_what_passes(file: str, old: str, new: str, same: bool) -> None:
    assert not differences(file, old, old)
    assert bool(differences(file, old, new)) != same


def test_weights_halfway_through_training_may_differ_more() -> None:
    file, header = "plots/evaluate/lvln/curriculum.csv", "phase,fps,metric,horizon_step,value\n"
    for phase, far in (("1", 14 * METRICS["psnr"].model[0]), ("copy_last", METRICS["psnr"].baseline[0])):
        old, near, off = (f"{header}{phase},10,psnr,1,{20 + distance}\n" for distance in (0, far, 1.1 * far + 0.5))
        assert not differences(file, old, near)
        assert differences(file, old, off)


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
