"""Stage decode: data/raw -> WebDataset shards at 25, 15 and 10 fps, and the manifest."""

from pathlib import Path

from pipeline.params import load_section
from pipeline.results import write_metrics
from pipeline.video.ingest import DecodeConfig, as_manifest, check, ingest, plan_rows, summarise
from pipeline.video.ucf101 import LISTS, read_index, read_labels, read_split
from stages.entry import run


def main() -> None:
    config = load_section("params.yaml", "decode", DecodeConfig)
    raw = Path("data/raw")
    index, paths = read_index(raw)
    split = read_split(raw / LISTS, config.split)
    rows = plan_rows(index, labels=read_labels(raw / LISTS), split=split, config=config)
    check(as_manifest(rows), config)  # lists and groups that leave a split empty, before hours of decoding
    manifest = ingest(rows, paths, Path("data/shards"), config)
    manifest.to_csv("data/manifest.csv", index=False, lineterminator="\n")
    check(manifest, config)  # after the manifest is there to be looked at
    summary = summarise(manifest, split)
    print("videos:", ", ".join(f"{name} {count}" for name, count in summary["videos"].items()))
    write_metrics(Path("metrics/decode.json"), summary)


if __name__ == "__main__":
    run("decode", main)
