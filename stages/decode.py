"""Stage decode: data/raw -> WebDataset shards at 25, 15 and 10 fps, and the manifest."""

import shutil
import signal
from pathlib import Path

from pipeline.params import load_section
from pipeline.results import write_metrics
from pipeline.video.index import read_index
from pipeline.video.ingest import ingest
from pipeline.video.manifest import check_accounts, check_splits, check_verdicts, make_manifest, summarise
from pipeline.video.plan import DecodeConfig, plan_rows
from pipeline.video.ucf101 import LISTS, read_labels, read_split
from stages.entry import run

WORK = Path("runs/decode")  # finished shards, until all are


def main() -> None:
    # Ctrl-C: any moment is a good one to stop, and the next run carries on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = load_section("params.yaml", "decode", DecodeConfig)
    raw, shards = Path("data/raw"), Path("data/shards")
    index, paths = read_index(raw)
    split = read_split(raw / LISTS, config.split)
    rows = plan_rows(index.itertuples(), labels=read_labels(raw / LISTS), split=split, config=config)
    check_splits(make_manifest(rows), config)  # before hours of decoding
    manifest = make_manifest(ingest(rows, paths, shards, config, work=WORK))
    manifest.to_csv("data/manifest.csv", index=False, lineterminator="\n", errors="surrogateescape")
    check_verdicts(manifest, config)  # after the manifest is there to be looked at
    check_splits(manifest, config)
    try:
        check_accounts(manifest, index, shards)
    except ValueError:
        shutil.rmtree(WORK)  # what it vouches for is not to be trusted
        raise
    summary = summarise(manifest)
    print("videos:", ", ".join(f"{name} {count}" for name, count in summary["videos"].items()))
    odd = {name: count for name, count in (summary["duplicates"] | summary["leaks"]).items() if count}
    if odd:
        print("worth a look, see data/manifest.csv:", ", ".join(f"{name} {count}" for name, count in odd.items()))
    write_metrics(Path("metrics/decode.json"), summary)
    shutil.rmtree(WORK)


if __name__ == "__main__":
    run("decode", main)
