"""Stage fetch: videos and split lists, generated, indexed in place or downloaded -> data/raw."""

import shutil
from pathlib import Path

from pipeline.datasets.source import SourceConfig, fetch
from pipeline.results import write_metrics
from pipeline.settings import load_section
from stages.entry import run


def main() -> None:
    config = load_section("params.yaml", "source", SourceConfig)
    raw = Path("data/raw")
    try:
        table = fetch(config, raw, downloads=Path("runs/fetch"))
    except BaseException:  # half of it would stand in the way of `dvc checkout`
        shutil.rmtree(raw, ignore_errors=True)
        raise
    classes = table["video"].str.split("/").str[0].nunique()
    write_metrics(
        Path("metrics/fetch.json"),
        {"kind": config.kind, "videos": len(table), "classes": classes, "bytes": int(table["bytes"].sum())},
    )


if __name__ == "__main__":
    run("fetch", main)
