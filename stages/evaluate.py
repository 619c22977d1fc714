"""Stage evaluate: a model and the baselines on the test split -> headline metrics, tables and pictures."""

import os
from pathlib import Path

from pipeline.clips.shards import RATES, open_videos
from pipeline.evaluation.figures import animation, prediction_sheet
from pipeline.evaluation.metrics import over
from pipeline.evaluation.phases import curriculum_matrix
from pipeline.evaluation.score import EvaluateConfig, score
from pipeline.evaluation.tables import curriculum_rows, gain_rows, headline, resemblance_rows, score_rows
from pipeline.hardware import stage_device
from pipeline.results import write_facts, write_metrics, write_table
from pipeline.settings import load_section, read_params
from pipeline.training.model_file import load_model
from stages.entry import matrix_item, run


def main() -> None:
    name = matrix_item("evaluate", read_params()["train"])
    config = load_section("evaluate", EvaluateConfig)
    device = stage_device()
    videos = {fps: open_videos(Path("data/shards", str(fps)), "test") for fps in RATES}
    net, card = load_model(f"models/{name}.safetensors")
    # Shared by the models that see as many frames of the same size.
    folder = Path(f"runs/baselines/{card.context}_{card.height}x{card.width}")
    cores = len(os.sched_getaffinity(0))
    table, pictures = score(net, card, videos[config.fps], config, device=device, folder=folder, workers=cores)
    phases = sorted(Path("models/phases", name).glob("*.safetensors"), key=lambda path: int(path.stem))
    nets = {path.stem: load_model(path)[0] for path in phases}
    matrix = curriculum_matrix(nets, card, videos, config, device=device)
    for region in ("whole", "moving"):
        write_metrics(Path(f"metrics/{over(region, name)}.json"), headline(table, region=region))
    folder = Path("plots/evaluate", name)
    write_table(folder / "scores.csv", score_rows(table, model=name))
    write_table(folder / "gains.csv", gain_rows(table))
    write_table(folder / "resembles.csv", resemblance_rows(table))
    write_table(folder / "curriculum.csv", curriculum_rows(matrix))
    write_facts(folder / "facts.csv", table["data"])
    frames, title = vars(pictures), f"{name}: test clips at {config.fps} fps"
    prediction_sheet(folder / "predictions.png", **frames, title=title)
    animation(folder / "predictions.gif", **frames, title=title)


if __name__ == "__main__":
    run("evaluate", main)
