"""Which frames of a video make it at another frame rate."""

from fractions import Fraction

import numpy as np


def resample(pts: np.ndarray, tick: Fraction, rate: int) -> np.ndarray:
    """Indices of the source frames that make the video at `rate` frames per second, shape (K,).

    Frame k shows the source at time k / rate, counted from the first frame: the nearest source frame, the
    earlier of two equally near. The last k is at or before the last source frame's time, so nothing is
    extrapolated, and equal index gaps are equal time gaps to within half a source frame:

        25 fps  0  1  2  3  4  5  6  7  8  9  10
        10 fps  x     x        x     x        x      (2.5 -> 2, 7.5 -> 7)

    pts: (T,) source times in ticks of `tick` seconds, not decreasing. The arithmetic is exact, in integers.
    """
    # In units of 1 / (rate · tick.denominator) s both clocks are integers.
    source = (pts - pts[0]) * (tick.numerator * rate)
    wanted = np.arange(source[-1] // tick.denominator + 1, dtype=np.int64) * tick.denominator
    after = np.searchsorted(source, wanted).clip(max=len(source) - 1)
    before = (after - 1).clip(min=0)
    return np.where(wanted - source[before] <= source[after] - wanted, before, after)
