"""Stage features: clips of every video through a frozen model, under one condition -> its hidden states."""

import math
from pathlib import Path

from pipeline.hardware import stage_device
from pipeline.probe.features.extract import extract_condition
from pipeline.probe.features.states import CONDITIONS, FeaturesConfig
from pipeline.settings import load_section
from stages.entry import matrix_item, run


def main() -> None:
    condition = matrix_item("features", CONDITIONS)
    config = load_section("features", FeaturesConfig)
    shapes, videos = extract_condition(
        config,
        condition,
        models=Path("models"),
        shards=Path("data/shards", str(config.fps)),
        out=Path("data/features", condition),
        work=Path("runs", f"features_{condition}"),
        device=stage_device(),
    )
    dimensions = ", ".join(f"{name} {math.prod(shape):,}" for name, shape in shapes.items())
    print(f"{condition}: {config.clips} clips of each of {videos} videos; dimensions: {dimensions}")


if __name__ == "__main__":
    run("features", main)
