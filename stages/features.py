"""Stage features: clips of every video through a frozen model, under one condition -> its hidden states."""

import math
from pathlib import Path

from pipeline.device import pick_device
from pipeline.params import load_section
from pipeline.probe.extract import extract
from pipeline.probe.features import CONDITIONS, FeaturesConfig, check_split, check_tokens
from pipeline.results import write_metrics
from pipeline.training.model_file import load_model
from pipeline.video.digest import sha256_of
from pipeline.video.shards import open_videos
from stages.entry import matrix_item, run


def main() -> None:
    condition = matrix_item("features", CONDITIONS)
    config = load_section("params.yaml", "features", FeaturesConfig)
    model = Path(f"models/{config.model}.safetensors")
    net, card = load_model(model)
    by_split = {s: open_videos(Path("data/shards", str(config.fps)), s) for s in ("train", "validation", "test")}
    check_split(card, by_split["test"], model=config.model)
    check_tokens(card, config.token_stride)
    videos = [video for members in by_split.values() for video in members]
    shapes = extract(
        net.to(pick_device(config.device, key="features.device")),
        card,
        videos,
        [split for split, members in by_split.items() for _ in members],
        Path("data/features", condition),
        condition=condition,
        config=config,
        model_sha256=sha256_of(model),
        work=Path("runs", f"features_{condition}"),
    )
    numbers = {name: math.prod(shape) for name, shape in shapes.items()}
    summary = {"numbers": numbers, "videos": len(videos), "clips": len(videos) * config.clips, "fps": config.fps}
    write_metrics(Path(f"metrics/features_{condition}.json"), summary)


if __name__ == "__main__":
    run("features", main)
