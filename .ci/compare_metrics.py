"""Compares the results of the pipeline with a git revision's, within the stated tolerances: metrics/*.json and the
tables under plots/, except training curves. Exits 1 with a line for every value that differs by more.

    python .ci/compare_metrics.py [revision]

On a CPU the same parameters give the same bytes on the same machine. Elsewhere, floating-point sums are taken in
another order and training amplifies the difference. Measured on the default pipeline, one thread against two: PSNR
0.03 dB, SSIM 0.001, L1 0.00006, loss 0.0003, top-1 0.05, top-5 0.13. The tolerances below leave room for other
processors and are three to some ten times that; those of the metrics added since are set in proportion to how far they
spread. Those of the evaluation's metrics are in pipeline/evaluation/metrics.py. What is not listed must be equal.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path, PurePath

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.metrics import METRICS, RATIOS

TABLES = (
    "metrics/*.json",
    "plots/decode.csv",
    "plots/controls.csv",
    "plots/train/*/facts.csv",
    "plots/evaluate/*/*.csv",
    "plots/probe/*/accuracy.csv",
    "plots/probe/*/confusion.csv",
    "plots/probe/*/facts.csv",
)
VALUES = ("value", "low", "high", "spread", "psnr", "share")  # the columns of numbers; all others say which row it is
LOSS = 0.002
RESEMBLES = 0.6  # dB
ACCURACY = 0.16  # measured, one thread against two: 0.05, 0.09 in gains, 0.13 in top-5, of 112 test videos
SPREAD = 0.08
CLASS = 0.6  # of 14 test videos; measured: 0.45
# Weights halfway through training, where the learning rate is still high: measured on lvln_warp's first phase, one
# thread against two, PSNR 4.0 dB, SSIM 0.034. Those that training ends with are measured without this.
HALFWAY = 15  # times the tolerances of a trained model
HEADLINES = ("psnr", "ssim", "vs_copy", "vs_flow")
# Counts of moving pixels; they depend on how the encoder of the videos and the JPEG decoder round.
COVERED = {"moving.share": 0.002, "moving.frames": 2} | {f"moving.frames_{name}": 2 for name in METRICS}


def quality(metric: str, region: str, *, of: str) -> float:
    """The tolerance of an evaluation's metric, of a trained `model` or of a `baseline`; flow follows the processor's
    rounding, though no training touches it."""
    if metric == "loss":
        return LOSS if of == "model" else LOSS / 2
    if metric in RATIOS:
        return getattr(RATIOS[metric], of)
    return getattr(METRICS[metric], of)[region != "whole"]


def allowed(file: str, row: dict[str, str], column: str) -> float:
    """How far a number of a table may lie from the committed one. row: the cells that say which number it is."""
    table = PurePath(file).name
    if table == "scores.csv":
        return quality(row["metric"], row["region"], of="baseline" if row["predictor"] in BASELINES else "model")
    if table == "gains.csv":
        return quality(row["metric"], row["region"], of="model")
    if table == "curriculum.csv":
        of = "baseline" if row["phase"] in BASELINES else "model"
        return quality(row["metric"], "whole", of=of) * (1 if of == "baseline" else HALFWAY)
    if table == "resembles.csv":
        return RESEMBLES
    if table == "confusion.csv":
        return CLASS
    if table in ("accuracy.csv", "controls.csv"):
        if row["control"] == "chance" and not row["metric"].endswith("gain"):
            return 0
        return SPREAD if column == "spread" else ACCURACY
    name = row["name"]
    if PurePath(file).suffix == ".json":
        if name in HEADLINES:
            region = "moving" if file.endswith("_moving.json") else "whole"
            return quality("ssim" if name == "ssim" else "psnr", region, of="model")
        return LOSS if name.endswith("loss") else ACCURACY if name == "top1" or name.startswith("vs_") else 0
    return COVERED.get(name.rpartition(".")[0], 0)


def values_of(file: str, text: str) -> dict[tuple[tuple[str, ...], str], tuple[dict[str, str], str]]:
    """{(which row it is, column): (the cells that say so, the value)}"""
    if file.endswith(".json"):
        return {((name,), "value"): ({"name": name}, str(value)) for name, value in json.loads(text).items()}
    found = {}
    for cells in csv.DictReader(text.splitlines()):
        row = {column: cell for column, cell in cells.items() if column not in VALUES}
        found |= {((*row.values(),), column): (row, cells[column]) for column in VALUES if column in cells}
    return found


def differences(file: str, committed: str, now: str) -> list[str]:
    """A line for each value that is absent on one side or too far off."""
    before, after = values_of(file, committed), values_of(file, now)
    lines = []
    for key, column in sorted(before.keys() | after.keys()):
        # Of a confusion, only a class with itself always has a row: nobody was taken for the others.
        missing = "0" if file.endswith("confusion.csv") and key[0] != key[1] else "absent"
        row, old = before.get((key, column), ({}, missing))
        row, new = after.get((key, column), (row, missing))
        limit = allowed(file, row, column)
        if old != new and not close(old, new, limit):
            lines.append(f"{file}: {' '.join(key)}, {column}: {old} -> {new} (allowed: ± {limit:g})")
    return lines


def close(old: str, new: str, limit: float) -> bool:
    try:
        return abs(float(new) - float(old)) <= limit + 1e-9  # the last digit of what was rounded
    except ValueError:  # a word, or no value
        return False


def committed_tables(revision: str) -> dict[str, str]:
    """The tables as they are in a git revision, by path."""
    names = git("ls-tree", "-r", "--name-only", revision, "metrics/", "plots/").splitlines()
    found = [name for name in names if any(PurePath(name).match(pattern) for pattern in TABLES)]
    return {name: git("show", f"{revision}:{name}") for name in found}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    revision = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    committed = committed_tables(revision)
    now = {path.as_posix(): path.read_text() for pattern in TABLES for path in Path().glob(pattern)}
    if not committed:
        sys.exit(f"no results in {revision}: nothing to compare with")
    lines = [f"{name}: {'is new' if name in now else 'is absent'}" for name in sorted(committed.keys() ^ now.keys())]
    for name in sorted(committed.keys() & now.keys()):
        lines += differences(name, committed[name], now[name])
    if lines:
        sys.exit("\n".join(["results differ by more than the stated tolerance:", *lines]))
    print(f"{len(committed)} tables of results agree with {revision} within the stated tolerances")


if __name__ == "__main__":
    main()
