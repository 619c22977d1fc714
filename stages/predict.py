"""Not a DVC stage: a video of yours through a trained model. `python -m stages.predict --help`"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from pipeline.hardware import pick_device
from pipeline.predict.own_video import open_own_video, write_videos
from pipeline.training.model_file import load_model
from stages.entry import run

ABOUT = """\
Writes two videos. FILE.mp4: the video, then --frames frames that the model predicts after its end.
FILE_side_by_side.mp4: how good it is on frames that exist: true frame, predicted frame, and their difference (4 times).
Every --frames frames are predicted from the true ones before them; a yellow border marks predictions, and a red one
those after the end of the video.

The video may be of any codec that ffmpeg decodes, in any container that holds its own frames: no playlist, and no
series of pictures. Missing or damaged frames are reported, and it goes on. Its frames are taken at --fps frames per
second and stretched to the height and width that the model was trained with, as in training. In what is written each of
those pixels is a square of several, to be looked at."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m stages.predict", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a name of models/, such as lvln_warp, or a .safetensors file")
    parser.add_argument("--video", required=True, type=Path, metavar="FILE", help="your video")
    parser.add_argument("--frames", type=int, default=3, metavar="K", help="frames to predict at a time (default 3)")
    parser.add_argument(
        "--fps", type=int, default=10, help="rate that the model sees (default 10, that of its training)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.mp4", help="what is there is replaced")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    side_by_side = given.out.with_name(given.out.stem + "_side_by_side.mp4")
    for name, value in (("--frames", given.frames), ("--fps", given.fps)):
        if value < 1:
            raise ValueError(f"{name} {value} is out of range; allowed: at least 1")
    if given.out.suffix != ".mp4":
        raise ValueError(f"--out {given.out} must end in .mp4")
    for file in (given.out, side_by_side):
        if file.is_dir():
            raise ValueError(f"--out {given.out}: {file} is a folder")
    if given.video.resolve() in (given.out.resolve(), side_by_side.resolve()):
        raise ValueError(f"--out {given.out} would replace the video itself")
    file = Path(given.model if given.model.endswith(".safetensors") else f"models/{given.model}.safetensors")
    if not file.is_file():
        there = ", ".join(sorted(model.stem for model in Path("models").glob("*.safetensors"))) or "none"
        raise ValueError(
            f"--model {given.model}: there is no {file}; give a name of models/ ({there}; dvc repro makes them), or a "
            f".safetensors file"
        )
    net, card = load_model(file)
    net.to(pick_device(given.device, key="--device"))
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {given.out}: its folder cannot be made: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="predict_") as scratch:
        video = open_own_video(given.video, Path(scratch), card, fps=given.fps)
        write_videos(net, card, video, frames=given.frames, fps=given.fps, out=given.out, side_by_side=side_by_side)
    print(f"{given.out}: {len(video)} frames of the video, then {given.frames} predicted\n{side_by_side}")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # unfinished files are removed on the way out
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    run("predict", main)
