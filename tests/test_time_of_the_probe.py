"""benchmarks/probe.py: its figures, as it is called, and how hours follow from rates."""

import json
import math
import subprocess
import sys

import pytest

from benchmarks.probe import Rates, hours_of_heads
from pipeline.probe.classifier import ProbeConfig
from pipeline.settings import from_dict
from stages.preset import with_preset
from tests.support.import_closure import ROOT
from tests.support.project import environment


def test_the_benchmark_of_the_probe_gives_rates_and_hours() -> None:
    command = [sys.executable, "-m", "benchmarks.probe", "tiny", "--clips", "1", "--steps", "1", "--heads", "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    found = json.loads(last)
    hours, tiny = found["hours_for_ucf101"], with_preset(ROOT / "presets/tiny.yaml", ROOT / "params.yaml")
    choices = [*tiny["features"]["choices"], "encoder", "flow", "flow_pooled"]
    assert list(found["learn_clips_per_s"]) == list(found["score_clips_per_s"]) == sorted(choices)
    assert sorted(hours) == sorted(["all", "features", *choices])
    assert [line.split()[0] for line in table if line.strip()][1:] == ["features", *choices, "all"]
    assert hours["features"] == pytest.approx(2 * 13_320 / found["features_clips_per_s"] / 3600, 1e-3)
    assert hours["all"] == pytest.approx(sum(hours.values()) / 2, 1e-3)
    assert min(hours.values()) > 0


def test_the_hours_of_heads_by_hand() -> None:
    """Two seeds and two pairs; one head learns 100 clips a second, and all else takes no time, or the other way."""
    ucf101 = with_preset(ROOT / "presets/ucf101.yaml", ROOT / "params.yaml")
    tree = ucf101["probe"] | {"seeds": [0, 1], "lr": [0.1], "weight_decay": [0.0, 0.5], "epochs": 3}
    probe = from_dict(tree | {"validate_every": 0.5, "validation_share": 0.25}, ProbeConfig, where="probe")
    clips = {"train": 1000, "validation": 200, "test": 50}
    heads = 3 * 4 + 3 * 2  # of trained, still and shuffled; and of three draws
    learning = hours_of_heads(probe, Rates(100, math.inf), clips, draws=3, times=None)
    assert learning == pytest.approx(heads * 3 * 1000 / 100 / 3600)
    scoring = hours_of_heads(probe, Rates(math.inf, 100), clips, draws=3, times=None)
    curve = 4 * 3 * 2 * 50  # twice an epoch, of a quarter of the validation clips
    assert scoring == pytest.approx((heads * (3 * 200 + 50) + curve) / 100 / 3600)
    control = hours_of_heads(probe, Rates(100, 100), clips, draws=3, times=6)
    assert control == pytest.approx(6 * 4 * (3 * 1000 + 3 * 200 + 50) / 100 / 3600)
