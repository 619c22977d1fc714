"""Section `source` of the settings -> how large its data set will be."""

from collections.abc import Mapping
from typing import Any

from pipeline.cost.data_set import UCF101, DataSet
from pipeline.datasets import motions, orders


def data_set(tree: Mapping[str, Any]) -> DataSet | None:
    """Of the settings' source; None for videos of one's own, whose length is not known, and for circles, whose videos
    are few. tree: all sections of the settings."""
    kind = tree["source"]["kind"]
    if kind == "ucf101":
        return UCF101
    if kind not in ("motions", "orders"):
        return None
    settings = tree["source"][kind]
    classes = len({"motions": motions, "orders": orders}[kind].CLASSES)
    of_a_group = classes * settings["clips"]
    groups, split = range(1, settings["groups"] + 1), tree["decode"]["split"]
    tested = set(range(7 * split - 6, 7 * split + 1))  # datasets/sprites.py
    held_back = set(tree["decode"]["validation_groups"]) - tested
    test, validation = (len(of & set(groups)) for of in (tested, held_back))
    frames = of_a_group * len(groups) * settings["frames"]
    return DataSet(
        name=f"source.{kind}",
        train=of_a_group * (len(groups) - test - validation),
        validation=of_a_group * validation,
        test=of_a_group * test,
        classes=classes,
        seconds=frames / 25,
        source_frames=frames,
        archives=0,
        files=frames * 1_250,  # measured: 25 MB for the 20,000 frames of the default settings
    )
