"""What tests load, score and extract features with."""

from dataclasses import asdict

import torch

from pipeline.training.model_card import ModelCard
from tests.support.nets import VARIANTS

CPU = torch.device("cpu")
CARD = ModelCard(
    model="lvln",
    net=asdict(VARIANTS["lvln"][1]),
    height=32,
    width=32,
    context=3,
    horizon=3,
    off_by_one=False,
    clip_feedback=True,
    loss={"l1": 1.0},
    encoder={},
    test_digest="",
)
