"""L-VLN that moves pixels, by matching features: what the small kernels of the report's model could not see.

It is given no optical flow by Lucas and Kanade. How a pixel moved is where the features of the last two frames agree
best, those of the frozen encoder and then those of random filters (pipeline/nets/flow.py). Nothing of that is learned.
It sees the cost volume of that search, too. With `flow: none` it has to learn from prediction alone what to make of the
cost volume.
"""

from pipeline.nets.warping import Warping as Config
from pipeline.nets.warping import build

__all__ = ["Config", "build"]
