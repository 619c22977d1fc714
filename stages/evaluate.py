"""Stage evaluate: a model and copy-last on the test split -> metrics and a picture."""

from pathlib import Path

from pipeline.evaluation.figures import prediction_sheet
from pipeline.evaluation.score import EvaluateConfig, score
from pipeline.params import MODELS, load_section
from pipeline.results import write_metrics
from pipeline.training.model_file import load_model
from pipeline.video.shards import open_videos
from stages.entry import matrix_item, run


def main() -> None:
    name = matrix_item("evaluate", MODELS)
    config = load_section("params.yaml", "evaluate", EvaluateConfig)
    net, card = load_model(f"models/{name}.safetensors")
    table, pictures = score(net, card, open_videos(Path("data/shards", str(config.fps)), "test"), config)
    write_metrics(Path(f"metrics/evaluate_{name}.json"), table)
    prediction_sheet(
        Path(f"plots/evaluate_{name}.png"),
        seeds=pictures.seeds,
        targets=pictures.targets,
        predictions=pictures.predictions,
        title=f"{name}: test clips at {config.fps} fps",
    )


if __name__ == "__main__":
    run("evaluate", main)
