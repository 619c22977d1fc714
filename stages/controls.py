"""Stage controls: what chance, the frozen encoder and optical flow alone give, for every probe to be compared with."""

from pathlib import Path

from pipeline.hardware import stage_device
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import READINGS, accuracy_rows, correct_by_video, read_held_out, summaries
from pipeline.probe.controls import read_memoryless
from pipeline.results import write_table
from pipeline.settings import load_section
from stages.entry import run


def main() -> None:
    config = load_section("probe", ProbeConfig)
    folder = Path("data/features")
    held_out = read_held_out(folder)
    found = read_memoryless(config, folder, classes=held_out.classes, device=stage_device())
    rows = summaries(found, held_out, resamples=config.bootstrap)
    write_table(Path("plots/controls.csv"), accuracy_rows(rows, features="memoryless"))
    for reading in READINGS:
        correct = correct_by_video(found, held_out, reading).reset_index()
        write_table(Path(f"data/controls/{reading}.csv"), correct.to_dict("records"))


if __name__ == "__main__":
    run("controls", main)
