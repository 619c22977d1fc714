"""How large a data set is, as far as that is known before it is there."""

from dataclasses import dataclass

import numpy as np

# Mean bytes of a stored frame of the 234 real clips of six classes at 25 fps (39,736 frames, quality 96), by its
# pixels: 32×32, 64×96 and 128×160.
MEASURED_QUALITY = 96
MEASURED_BYTES = {32 * 32: 1_596, 64 * 96: 4_682, 128 * 160: 11_082}


@dataclass(frozen=True)
class DataSet:
    """train, validation, test: videos of each split; classes: how many; seconds: of all videos together, by the frames
    that are stored at 25 fps; source_frames: that are decoded; archives, files: bytes of what is downloaded, and of the
    videos."""

    name: str
    train: int
    validation: int
    test: int
    classes: int
    seconds: float
    source_frames: float
    archives: int
    files: int

    @property
    def videos(self) -> int:
        return self.train + self.validation + self.test

    def clips(self, videos: float, *, fps: int, length: int, spacing: int) -> float:
        """Of so many videos, as if all were of the same length."""
        frames = self.seconds * fps / self.videos
        return videos * max(0.0, (frames - length) // spacing + 1)


# Split 1 with groups 22 to 25 held back. UCF101 has about 2.48 million frames in its files; of the 42,695 of the clips
# above, some at 29.97 fps, 39,736 are stored at 25 fps. Zlib makes these files 3.3 % smaller.
_ARCHIVES = 6_960_400_115 + 113_943  # pipeline/datasets/ucf101.py
UCF101 = DataSet(
    name="the whole of UCF101",
    train=7_430,
    validation=2_107,
    test=3_783,
    classes=101,
    seconds=2.48e6 * (39_736 / 42_695) / 25,
    source_frames=2.48e6,
    archives=_ARCHIVES,
    files=round(_ARCHIVES / 0.967),
)


def jpeg_bytes(height: int, width: int) -> float:
    """Of a stored frame on average: between the sizes that were measured, and beyond them, by a power of its pixels."""
    pixels, sizes = np.log(list(MEASURED_BYTES)), np.log(list(MEASURED_BYTES.values()))
    i = int(np.clip(np.searchsorted(pixels, np.log(height * width)) - 1, 0, len(pixels) - 2))
    slope = (sizes[i + 1] - sizes[i]) / (pixels[i + 1] - pixels[i])
    return float(np.exp(sizes[i] + slope * (np.log(height * width) - pixels[i])))
