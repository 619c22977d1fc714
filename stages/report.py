"""Stage report, of experiments/dvc.yaml: experiments/template.md and the metrics of all runs -> docs/experiments.md."""

from pathlib import Path

from pipeline.experiments.tables import fill
from pipeline.results import write_text
from stages.entry import run


def main() -> None:
    page = Path("docs/experiments.md")
    write_text(page, fill(Path("experiments/template.md").read_text(encoding="utf-8")))


if __name__ == "__main__":
    run("report", main)
