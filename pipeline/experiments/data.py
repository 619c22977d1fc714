"""Shards of another data set than that of params.yaml, for an experiment of its own."""

from pathlib import Path

from pipeline.clips.shards import RATES
from pipeline.datasets.source import SourceConfig, fetch
from pipeline.decode.dataset import decode_dataset
from pipeline.decode.plan import DecodeConfig


def make_shards(source: SourceConfig, decode: DecodeConfig, folder: Path) -> dict[int, Path]:
    """What the stages fetch and decode do, in a folder that is made: the folder of the shards at every rate."""
    raw, work = folder / "raw", folder / "shards"
    fetch(source, raw, downloads=folder)
    decode_dataset(raw, decode, work=work)
    return {rate: work / str(rate) for rate in RATES}
