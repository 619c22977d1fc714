"""Stage controls: what chance and the frozen encoder alone give, for every probe to be compared with."""

from itertools import accumulate, pairwise
from pathlib import Path

from pipeline.hardware import stage_device
from pipeline.nets.encoder import TAPS
from pipeline.probe.accuracy import chance
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import accuracy_rows, correct_by_video, read_held_out, run_seeds, summaries
from pipeline.probe.samples import read_splits
from pipeline.results import write_table
from pipeline.settings import load_section
from stages.entry import run


def main() -> None:
    config = load_section("probe", ProbeConfig)
    device = stage_device()
    folder = Path("data/features/trained")
    held_out = read_held_out(folder)
    ends = [0, *accumulate(tap.channels for tap in TAPS.values())]
    columns = {name: slice(*part) for name, part in zip(TAPS, pairwise(ends), strict=True)} | {"encoder": slice(None)}
    features = {name: read_splits(folder, "encoder", columns=part) for name, part in columns.items()}
    runs = run_seeds(config, features, classes=held_out.classes, device=device)
    scores = {name: [run.scores for run in found] for name, found in runs.items()}
    scores["chance"] = [chance(features["encoder"].train.labels, len(held_out.videos), classes=held_out.classes)]
    found = summaries(scores, held_out, resamples=config.bootstrap)
    write_table(Path("plots/controls.csv"), accuracy_rows(found, features="encoder"))
    write_table(Path("data/controls.csv"), correct_by_video(scores, held_out).reset_index().to_dict("records"))


if __name__ == "__main__":
    run("controls", main)
