"""What a run wrote under plots/."""

import csv
from pathlib import Path

import pandas as pd


def facts(file: Path) -> dict[str, str]:
    """{name: value} of a CSV of facts."""
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return {row["name"]: row["value"] for row in csv.DictReader(stream)}


def accuracies(file: Path, metric: str) -> pd.DataFrame:
    """The rows of one metric of an accuracy.csv, by control."""
    table = pd.read_csv(file)
    return table[table["metric"] == metric].set_index("control")
