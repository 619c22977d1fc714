"""benchmarks/probe.py: its figures, as it is called."""

import json
import subprocess
import sys

import pytest

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
