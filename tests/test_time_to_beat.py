"""benchmarks/time_to_beat.py, as it is called: when it stops, and the table that it keeps."""

import json
from pathlib import Path

import pandas as pd

from tests.support.project import run_here, write_params

BENCHMARK = "benchmarks.time_to_beat"
MINUTES = {"lvln": 0.01, "lvln_warp": 0.02}


def test_it_trains_until_the_gain_is_above_zero_or_the_time_is_over(shards: Path, tmp_path: Path) -> None:
    write_params(tmp_path, {})
    calls = [("b", "lvln", 0.001), ("a", "lvln_warp", MINUTES["lvln_warp"]), ("b", "lvln", MINUTES["lvln"])]
    for data, model, minutes in calls:
        done = run_here(tmp_path, BENCHMARK, model, "--shards", shards, "--minutes", minutes, "--as", data)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["threads"] == 1
    table = pd.read_csv(tmp_path / "plots/time_to_beat.csv")
    assert list(table) == ["data", "model", "steps", "minutes", "gain", "low", "high"]
    found = dict(iter(table.groupby(["data", "model"])))
    assert list(found) == [("a", "lvln_warp"), ("b", "lvln")]
    for (_, model), rows in found.items():
        assert rows["steps"].iloc[0] == rows["minutes"].iloc[0] == 0
        assert rows["steps"].is_monotonic_increasing
        assert (rows["low"] <= rows["gain"]).all()
        assert (rows["gain"] <= rows["high"]).all()
        assert (rows["low"].iloc[:-1] <= 0).all()
        # Of lvln the last call's, in place of the first's.
        assert rows["low"].iloc[-1] > 0 or rows["minutes"].iloc[-1] > MINUTES[model]


def test_without_a_gain_it_says_why(shards: Path, tmp_path: Path) -> None:
    write_params(tmp_path, {"train": {"lvln": {"context": 1}}})
    done = run_here(tmp_path, BENCHMARK, "lvln", "--shards", shards)
    assert done.returncode == 1
    assert "there is no such gain" in done.stderr
    assert "it needs two context frames" in done.stderr
