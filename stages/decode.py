"""Stage decode: data/raw -> WebDataset shards at 25, 15 and 10 fps, and the manifest."""

import shutil
from pathlib import Path

from pipeline.datasets.index import read_index
from pipeline.datasets.ucf101 import LISTS, read_labels, read_split
from pipeline.decode.ingest import ingest, publish
from pipeline.decode.manifest import check_accounts, check_splits, check_verdicts, make_manifest, summarise
from pipeline.decode.plan import DecodeConfig, plan_rows
from pipeline.results import write_metrics, write_text
from pipeline.settings import load_section
from stages.entry import run

WORK = Path("runs/decode")  # finished shards, until all are


def main() -> None:
    config = load_section("params.yaml", "decode", DecodeConfig)
    raw, shards = Path("data/raw"), Path("data/shards")
    index, paths = read_index(raw)
    split = read_split(raw / LISTS, config.split)
    rows = plan_rows(index.itertuples(), labels=read_labels(raw / LISTS), split=split, config=config)
    check_splits(make_manifest(rows), config)  # before hours of decoding
    rows = ingest(rows, paths, config, work=WORK)
    manifest = make_manifest(rows)
    text = manifest.to_csv(index=False, lineterminator="\n")
    try:
        check_verdicts(manifest, config)
        check_splits(manifest, config)
    except ValueError as error:  # nothing is left in data/, so that `dvc checkout` finds what it expects
        write_text(WORK / "manifest.csv", text)
        raise ValueError(f"{error}\nEvery file and its verdict: {WORK}/manifest.csv") from error
    try:
        check_accounts(manifest, index, WORK)
    except ValueError:
        shutil.rmtree(WORK)  # what it vouches for is not to be trusted
        raise
    publish(rows, WORK, shards)
    write_text(Path("data/manifest.csv"), text)
    summary = summarise(manifest)
    print("videos:", ", ".join(f"{name} {count}" for name, count in summary["videos"].items()))
    odd = summary["duplicates"] | summary["leaks"]
    odd["classes_without_training"] = summary["source"]["classes_without_training"]
    odd = {name: count for name, count in odd.items() if count}
    if odd:
        print("worth a look, see data/manifest.csv:", ", ".join(f"{name} {count}" for name, count in odd.items()))
    write_metrics(Path("metrics/decode.json"), summary)
    shutil.rmtree(WORK)


if __name__ == "__main__":
    run("decode", main)
