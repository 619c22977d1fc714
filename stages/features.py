"""Stage features: whole videos through a frozen model -> last hidden states, and the encoder's own features."""

from pathlib import Path

from pipeline.device import pick_device
from pipeline.params import load_section
from pipeline.probe.features import FeaturesConfig, extract
from pipeline.results import write_metrics
from pipeline.training.model_file import load_model
from pipeline.video.shards import open_videos
from stages.entry import run


def main() -> None:
    config = load_section("params.yaml", "features", FeaturesConfig)
    net, card = load_model(f"models/{config.model}.safetensors")
    net.to(pick_device(config.device, key="features.device"))
    by_split = {s: open_videos(Path("data/shards", str(config.fps)), s) for s in ("train", "validation", "test")}
    videos = [video for members in by_split.values() for video in members]
    splits = [split for split, members in by_split.items() for _ in members]
    numbers = extract(net, card, videos, splits, Path("data/features"), batch=config.batch)
    write_metrics(Path("metrics/features.json"), {"numbers": numbers, "videos": len(videos), "fps": config.fps})


if __name__ == "__main__":
    run("features", main)
