"""L-VLN, the Location-dependent Video Ladder Network of the report (section 3, Fig. 1).

Three frames in, three predicted, at 128×160 pixels.
"""

from pipeline.nets.ladder import HalfResolution as Config
from pipeline.nets.ladder import half_resolution as build

__all__ = ["Config", "build"]
