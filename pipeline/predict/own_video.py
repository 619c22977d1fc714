"""A user's own video through a trained model: what comes after its end, and how well its own frames were foreseen.

    frame           0  1  2  3  4  5  6  7  8  9    8 frames and 2 beyond; context 3, horizon 2
    predicted                1  2  1  2  1  1  2    as first or second frame after its context

Every frame after the first context is predicted once, from the true frames before it, and the frames beyond the end
from the video's last ones.

Shapes: T time, H × W pixels of the model.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.clips.clips import decode_jpegs
from pipeline.decode.container import VideoError
from pipeline.decode.resample import resample
from pipeline.decode.video import DecodedVideo, decode
from pipeline.nets.ladder import Ladder
from pipeline.nets.rollout import predict
from pipeline.predict.mp4 import mp4_writer
from pipeline.training.model_file import ModelCard

BATCH = 48  # frames predicted at a time, or those of one run where they are more
DAY = 24 * 3600.0  # seconds of decoding; whoever waits for it can stop it
BORDER = 4  # pixels around a panel, before it is enlarged
PREDICTED, BEYOND = (255, 200, 0), (255, 60, 0)  # colours of the border
ERROR_GAIN = 4


@dataclass(frozen=True)
class OwnVideo:
    """A decoded video at one rate: its T frames are those of `source` numbered `chosen`, (T,)."""

    source: DecodedVideo
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)

    def frames(self, start: int, stop: int) -> Tensor:
        """Frames start … stop − 1 as uint8 (stop − start, 3, H, W), read from the disk."""
        offsets = self.source.offsets
        jpegs = []
        with self.source.frames.open("rb") as stream:
            for k in self.chosen[start:stop]:
                stream.seek(offsets[k])
                jpegs.append(torch.frombuffer(bytearray(stream.read(offsets[k + 1] - offsets[k])), dtype=torch.uint8))
        return decode_jpegs(jpegs)


def open_own_video(path: Path, scratch: Path, card: ModelCard, *, fps: int) -> OwnVideo:
    """Decodes a video as the pipeline does for training: upright, resized to the model's height and width whatever its
    shape, at fps frames per second by its own timestamps.

    scratch: a folder for the frames as JPEGs, some 5 to 20 KB each. Says on stderr what is odd about the video, and how
    many frames are missing or damaged, and goes on. ValueError naming the file when it is no video, cannot be decoded,
    or has too few frames for the model's context.
    """
    if not path.is_file():
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    path.open("rb").close()  # an OSError of its own when it may not be read
    try:
        source = decode(path, scratch, height=card.height, width=card.width, quality=96, timeout_s=DAY)
    except VideoError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise OSError(
            f"{path} cannot be decoded to {scratch}: {error.strerror}; TMPDIR may name another disk"
        ) from error
    video = OwnVideo(source, resample(source.pts, source.track.tick, fps))
    if len(video) < card.context:
        raise ValueError(
            f"{path} is too short: its {len(source)} frames make {len(video)} at {fps} fps, and {card.model} needs "
            f"{card.context} to predict from"
        )
    for warning in _warnings(source, fps):
        print(f"{path}: {warning}", file=sys.stderr)
    return video


def _warnings(source: DecodedVideo, fps: int) -> Iterator[str]:
    if source.missing_frames:
        yield f"cut short, {len(source)} of {len(source) + source.missing_frames} frames are left of it"
    elif source.track.missing_bytes:
        yield f"cut short by {source.track.missing_bytes} bytes"
    if source.damaged_frames:
        yield f"damaged, {source.damaged_frames} of {len(source)} frames are not whole ({source.complaint})"
    elif source.complaint:
        yield f"the decoder complains, and goes on: {source.complaint}"
    if source.track.tracks > 1:
        yield f"has {source.track.tracks} picture tracks; shown is stream {source.track.index}"
    if source.track.hdr:
        yield f"has high dynamic range ({source.track.hdr}), shown without tone mapping: bright parts come out grey"
    if source.fps < fps:
        yield f"has {float(source.fps):g} fps: frames are repeated to make {fps}"


@torch.no_grad()
def predict_video(net: Ladder, card: ModelCard, video: OwnVideo, *, frames: int) -> Iterator[tuple[int, Tensor]]:
    """Yields (number of the first frame predicted, predictions uint8 (K, 3, H, W)) in order, K ≤ frames.

    The numbers start at card.context; the last predictions, `frames` of them, are of the frames beyond the end. Holds
    one batch of contexts and predictions at a time, on the network's device.
    """
    device = next(net.parameters()).device
    net.eval()
    starts = [*range(card.context, len(video), frames), len(video)]
    runs = max(1, BATCH // frames)
    for at in range(0, len(starts), runs):
        some = starts[at : at + runs]
        context = torch.stack([video.frames(start - card.context, start) for start in some]).to(device) / 255
        predictions, _ = predict(
            net, context, horizon=frames, clip_feedback=card.clip_feedback, off_by_one=card.off_by_one
        )
        shown = (predictions.clamp(0, 1) * 255).round().byte().cpu()
        for start, prediction in zip(some, shown, strict=True):
            yield start, prediction if start == len(video) else prediction[: len(video) - start]


def write_videos(
    net: Ladder, card: ModelCard, video: OwnVideo, *, frames: int, fps: int, out: Path, side_by_side: Path
) -> None:
    """Writes both files, each whole or not at all.

    out: the video's frames, then `frames` predicted ones. side_by_side: for every frame, and those beyond the end, the
    true one, the predicted one and ERROR_GAIN times their absolute difference. A prediction has a yellow border, and
    beyond the end, where there is no truth, a red one; the first context stands without border where predictions would.
    In both a pixel is a square of `enlargement` pixels. Memory does not grow with the video's length.
    """
    scale = enlargement(card.height)
    height, width = scale * card.height, scale * card.width
    margin = 2 * scale * BORDER
    with (
        mp4_writer(out, height=height, width=width, fps=fps) as write,
        mp4_writer(side_by_side, height=height + margin, width=3 * (width + margin), fps=fps) as write_beside,
        tqdm(total=len(video) + frames, desc=f"predict {card.model}", unit="frame", disable=None) as bar,
    ):

        def add(true: Tensor | None, predicted: Tensor | None) -> None:
            """A frame, uint8 (3, H, W) each; true None: beyond the end; predicted None: one of the first context."""
            for writer, image in (
                (write, _image(predicted if true is None else true)),
                (write_beside, _side_by_side(true, predicted)),
            ):
                writer(image.repeat(scale, 0).repeat(scale, 1))
            bar.update()

        for true in video.frames(0, card.context):
            add(true, None)
        for start, predictions in predict_video(net, card, video, frames=frames):
            truth = [None] * frames if start == len(video) else video.frames(start, start + len(predictions))
            for true, predicted in zip(truth, predictions, strict=True):
                add(true, predicted)


def enlargement(height: int) -> int:
    """By which whole number a frame is enlarged to be looked at: to 256 pixels of height or more, and by 2 or more,
    since MP4 keeps colour at half the resolution."""
    return max(2, -(-256 // height))


def _side_by_side(true: Tensor | None, predicted: Tensor | None) -> np.ndarray:
    """Truth | prediction | error of one frame, uint8 (H + 2 · BORDER, 3 · (W + 2 · BORDER), 3)."""
    nothing = torch.zeros_like(predicted if true is None else true)
    error = nothing
    if true is not None and predicted is not None:
        error = ((true.int() - predicted.int()).abs() * ERROR_GAIN).clamp(max=255).byte()
    panels = [
        _framed(nothing if true is None else true, (0, 0, 0)),
        _framed(true, (0, 0, 0)) if predicted is None else _framed(predicted, BEYOND if true is None else PREDICTED),
        _framed(error, (0, 0, 0)),
    ]
    return np.concatenate(panels, 1)


def _framed(frame: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    """(3, H, W) -> (H + 2 · BORDER, W + 2 · BORDER, 3)."""
    framed = np.full([size + 2 * BORDER for size in frame.shape[1:]] + [3], colour, np.uint8)
    framed[BORDER:-BORDER, BORDER:-BORDER] = _image(frame)
    return framed


def _image(frame: Tensor) -> np.ndarray:
    return frame.permute(1, 2, 0).numpy()
