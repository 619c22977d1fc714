"""The controls that need no memory: what the frozen encoder and optical flow give, on the probe's test videos.

`encoder`, and each of its taps; `flow` of every pair of frames, on tokens, `flow_pooled` over space, and `flow_pair`,
that of the last pair alone; `encoder_flow`, the means of the probabilities by encoder and flow, as the two streams of
Simonyan and Zisserman, "Two-Stream Convolutional Networks" (2014), are joined; `chance`.
"""

from itertools import accumulate, pairwise
from pathlib import Path

import torch

from pipeline.nets.encoder import TAPS
from pipeline.probe.accuracy import chance
from pipeline.probe.classifier import ProbeConfig
from pipeline.probe.comparison import Reading, read
from pipeline.probe.nearest import nearest
from pipeline.probe.samples import read_splits


def read_memoryless(config: ProbeConfig, folder: Path, *, classes: int, device: torch.device) -> dict[str, Reading]:
    """What needs no memory: the encoder, each of its taps, optical flow in three forms, both joined, and chance."""
    ends = [0, *accumulate(tap.channels for tap in TAPS.values())]
    encoder = {name: slice(*part) for name, part in zip(TAPS, pairwise(ends), strict=True)} | {"encoder": slice(None)}
    features = {name: read_splits(folder, "memoryless", "encoder", columns=part) for name, part in encoder.items()}
    flow, pooled = (read_splits(folder, "memoryless", name) for name in ("flow", "flow_pooled"))
    features["flow"], features["flow_pooled"] = flow, pooled
    features["flow_pair"] = read_splits(folder, "memoryless", "flow", columns=slice(-2, None))
    found = {name: read(config, [each], classes=classes, device=device, title=name) for name, each in features.items()}
    joined = [(a + b) / 2 for a, b in zip(found["encoder"].top1, found["flow"].top1, strict=True)]
    found["encoder_flow"] = Reading(joined, [nearest([features["encoder"], flow], classes=classes)])
    constant = chance(flow.train.labels, len(flow.test.videos), classes=classes)
    return found | {"chance": Reading([constant], [constant])}
