"""L-VLN that moves pixels instead of redrawing them: what the report's model lacked to beat copying.

It is handed the optical flow of the last frames to go on with.
"""

from pipeline.nets.warping import Warping as Config
from pipeline.nets.warping import build

__all__ = ["Config", "build"]
