"""Stage decode: data/raw -> WebDataset shards at 25, 15 and 10 fps, and the manifest."""

import shutil
from pathlib import Path

from pipeline.decode.dataset import decode_dataset, write_manifest
from pipeline.decode.ingest import publish
from pipeline.decode.manifest import summarise
from pipeline.decode.plan import DecodeConfig
from pipeline.results import write_facts, write_metrics
from pipeline.settings import load_section
from stages.entry import run

WORK = Path("runs/decode")  # finished shards, until all are: a run that fails leaves nothing in data/


def main() -> None:
    manifest = decode_dataset(Path("data/raw"), load_section("decode", DecodeConfig), work=WORK)
    publish(set(manifest["shard"]) - {""}, WORK, Path("data/shards"))
    write_manifest(Path("data/manifest.csv"), manifest)
    summary = summarise(manifest)
    print("videos:", ", ".join(f"{name} {count}" for name, count in summary["videos"].items()))
    odd = summary["duplicates"] | summary["leaks"]
    odd["classes_without_training"] = summary["source"]["classes_without_training"]
    if found := [f"{name} {count}" for name, count in odd.items() if count]:
        print("worth a look, see data/manifest.csv:", ", ".join(found))
    counts = {name: summary["videos"][name] for name in ("found", "good", "bad")}
    write_metrics(Path("metrics/decode.json"), counts | {"frames": summary["frames"]["source"]})
    write_facts(Path("plots/decode.csv"), summary)
    shutil.rmtree(WORK)


if __name__ == "__main__":
    run("decode", main)
