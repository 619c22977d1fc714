"""The one-frame variant of the report: L-VLN's ladder, trained to predict the next frame alone.

At 64×96 pixels five context frames predict the sixth. A context of any length works, since the ladder is recurrent, and
predictions appended to it roll out further (rollout.py). The upsampling is the ladder's own; the report
compared its grid artifacts on this variant (Fig. 9).
"""

from pipeline.nets.ladder import HalfResolution as Config
from pipeline.nets.ladder import half_resolution as build

__all__ = ["Config", "build"]
