"""Stage circles, of experiments/dvc.yaml: the moving circle as shards -> data/circles."""

from dataclasses import replace
from pathlib import Path
from shutil import rmtree

from pipeline.params import load_section
from pipeline.results import write_metrics
from pipeline.video.index import read_index
from pipeline.video.ingest import ingest
from pipeline.video.manifest import check_accounts, check_splits, check_verdicts, make_manifest, summarise
from pipeline.video.plan import DecodeConfig, plan_rows
from pipeline.video.source import SourceConfig, fetch
from pipeline.video.ucf101 import LISTS, read_labels, read_split
from stages.entry import run

WORK = Path("runs/circles")


def main() -> None:
    source = replace(load_section("params.yaml", "source", SourceConfig), kind="circles")
    config = load_section("params.yaml", "decode", DecodeConfig)
    raw, shards = WORK / "raw", Path("data/circles")
    fetch(source, raw, downloads=WORK)
    index, paths = read_index(raw)
    labels, split = read_labels(raw / LISTS), read_split(raw / LISTS, config.split)
    rows = plan_rows(index.itertuples(), labels=labels, split=split, config=config)
    manifest = make_manifest(ingest(rows, paths, shards, config, work=WORK / "decode"))
    check_verdicts(manifest, config)
    check_splits(manifest, config)
    check_accounts(manifest, index, shards)
    write_metrics(Path("metrics/experiments/circles.json"), summarise(manifest)["videos"])
    rmtree(WORK)


if __name__ == "__main__":
    run("circles", main)
