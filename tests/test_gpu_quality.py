"""benchmarks/gpu_quality.sh, on the CPU: what it trains, scores and says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.import_closure import ROOT


def gpu_quality(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = ["bash", "benchmarks/gpu_quality.sh", *map(str, arguments)]
    settings = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)


def test_without_shards_it_says_how_to_call_it() -> None:
    done = gpu_quality()
    assert done.returncode == 2
    assert "usage: benchmarks/gpu_quality.sh SHARDS" in done.stdout


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = gpu_quality(tmp_path, tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_models_are_trained_and_scored(shards: Path, tmp_path: Path) -> None:
    done = gpu_quality(shards, tmp_path / "out", CPU="1", MINUTES="0.5", SIZE="32x32", RATES="25 10")
    assert done.returncode == 0, done.stdout
    for model in ("lvln_warp", "lvln_match"):
        table = json.loads((tmp_path / "out" / f"evaluate_{model}.json").read_text())
        assert table["made"]["steps"] >= 1  # how many depends on what else the machine does
        assert table["made"]["minutes"] < 2
        assert {"1", "2", "3"} == set(table["model"]["psnr"]) == set(table["oracle"]["psnr_moving"])
        assert f"{model}: copy_last" in done.stdout
        assert (tmp_path / "out" / f"{model}.safetensors").is_file()
        curves = pd.read_csv(tmp_path / "out" / f"curves_{model}.csv")
        assert curves["fps"].unique().tolist() == [25, 10]
        assert set(curves["curve"]) == {"loss", "lr", "val_loss"}


@pytest.mark.slow
def test_a_model_that_fails_is_reported_and_the_other_still_runs(shards: Path, tmp_path: Path) -> None:
    size = {"SIZE": "64x64", "MODELS": "lvln_warp one_frame"}  # stored at 32 × 32
    done = gpu_quality(shards, tmp_path / "out", CPU="1", MINUTES="0.5", **size)
    assert done.returncode == 1
    assert "one_frame: failed with" in done.stdout
    assert done.stdout.count("frames are stored at 32×32, smaller than the 64×64 of the model") == 2
