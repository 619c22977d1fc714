"""Stage fetch: a data set, generated, read in place or downloaded -> its table in data/raw."""

import shutil
from pathlib import Path

from pipeline.datasets.source import SourceConfig, fetch
from pipeline.settings import load_section
from stages.entry import run


def main() -> None:
    config = load_section("source", SourceConfig)
    raw = Path("data/raw")
    try:
        table = fetch(config, raw, downloads=Path("runs/fetch"))
    except BaseException:  # half of it would stand in the way of `dvc checkout`
        shutil.rmtree(raw, ignore_errors=True)
        raise
    found = table[table["path"] != ""]
    size = found["bytes"].sum() / 1e6
    print(f"{config.kind}: {len(found)} videos of {found['action'].nunique()} classes, {size:,.0f} MB")


if __name__ == "__main__":
    run("fetch", main)
