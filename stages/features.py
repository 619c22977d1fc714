"""Stage features: clips of every video through a frozen model, and through its controls -> features of each."""

import math
from pathlib import Path

from pipeline.hardware import stage_device
from pipeline.probe.features.conditions import FeaturesConfig
from pipeline.probe.features.extract import extract_features, load_probed
from pipeline.settings import load_section
from stages.entry import run


def main() -> None:
    config = load_section("features", FeaturesConfig)
    net, card, digest = load_probed(config, Path("models"))
    shapes, videos = extract_features(
        config,
        net,
        card,
        model_sha256=digest,
        shards=Path("data/shards", str(config.fps)),
        out=Path("data/features"),
        work=Path("runs/features"),
        device=stage_device(),
    )
    print(f"{config.clips} clips of each of {videos} videos; dimensions:")
    for name, shape in shapes.items():
        print(f"  {name}: {math.prod(shape):,}")


if __name__ == "__main__":
    run("features", main)
