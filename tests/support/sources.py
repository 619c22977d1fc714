"""Settings of where videos come from."""

from pathlib import Path

from pipeline.datasets.source import SourceConfig
from pipeline.settings import from_dict

TREE = {
    "motions": {"seed": 0, "groups": 22, "clips": 1, "frames": 20},
    "orders": {"seed": 0, "groups": 22, "clips": 1, "frames": 25},
    "circles": {"seed": 0, "diameter": 60.0, "speed": 4.0, "frames": 20},
    "folder": {"root": None, "lists": None},
    "table": {"file": None, "root": None},
    "ucf101": {"mirror": None},
}


def source(kind: str, **settings: object) -> SourceConfig:
    """settings: those of the kind that are not as above."""
    changed = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return from_dict({"kind": kind} | TREE | {kind: TREE[kind] | changed}, SourceConfig, where="source")
