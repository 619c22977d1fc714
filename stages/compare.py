"""Not a DVC stage: `dvc exp show --only-changed`, turned so that it fits a terminal: one row per number, one column per
experiment. DVC's own table has a column per number, with the file's name in each title, and is several screens wide.

python -m stages.compare [OPTIONS OF dvc exp show]
"""

import subprocess
import sys
from io import StringIO

import pandas as pd

from stages.entry import run

ABOUT = ["Experiment", "rev", "typ", "Created", "parent", "State", "Executor"]  # dvc's columns that are no number
DIGESTS = "(data|models|pipeline|stages)/"  # of the stages' dependencies, which DVC shows too


def main() -> None:
    command = ["dvc", "exp", "show", "--only-changed", "--csv", "--drop", DIGESTS, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # DVC says by itself what is wrong
    if done.returncode:
        sys.exit(done.returncode)
    asked_for_help = {"-h", "--help"} & set(sys.argv)
    print(done.stdout if asked_for_help else turned(done.stdout))


def turned(table: str) -> str:
    """The CSV of `dvc exp show` as text. DVC leaves out the columns in which all rows agree, those of names too."""
    rows = pd.read_csv(StringIO(table), dtype=str, keep_default_na=False)
    numbers = rows.drop(columns=ABOUT, errors="ignore").replace("", "-")
    if "rev" not in rows or numbers.empty or not len(numbers.columns):
        return "nothing differs: no experiment, and no change since the last commit"
    names = rows["rev"] if "Experiment" not in rows else rows["Experiment"].where(rows["Experiment"] != "", rows["rev"])
    return numbers.set_axis(list(names)).T.to_string()


if __name__ == "__main__":
    run("compare", main)
