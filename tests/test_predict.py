"""A user's own video: the command line from file to files, each of its errors, and the lines of docs/training.md."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.nets.build import build_net
from pipeline.nets.rollout import predict
from pipeline.predict.mp4 import mp4_writer
from pipeline.predict.own_video import BORDER, open_own_video, predict_video
from pipeline.training.model_file import load_model, save_model
from stages.entry import run
from stages.predict import main
from tests.support.evaluation import CARD
from tests.support.import_closure import ROOT
from tests.support.project import environment, run_stage
from tests.support.videos import FFMPEG, write

HEIGHT, WIDTH, CONTEXT = 64, 96, CARD.context
CODECS = {
    "avi": ("-c:v", "libxvid", "-q:v", "2"),
    "mp4": ("-c:v", "libx264", "-crf", "10"),
    "mkv": ("-c:v", "libx265", "-crf", "10", "-x265-params", "log-level=error"),
    "webm": ("-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0", "-cpu-used", "8"),
    "mov": ("-c:v", "mjpeg", "-q:v", "2"),
    "mpg": ("-c:v", "mpeg2video", "-q:v", "2"),
}


def record(path: Path, *options: str, size: str = "160x120", seconds: float = 1.9) -> Path:
    """A test picture with a clock and moving parts at 25 fps."""
    source = f"testsrc2=size={size}:rate=25:duration={seconds}"
    command = [FFMPEG, "-y", "-loglevel", "error", "-f", "lavfi", "-i", source, *options, str(path)]
    subprocess.run(command, check=True)
    return path


def watch(path: Path) -> tuple[np.ndarray, str]:
    """The frames (T, H, W, 3) of a written file as a player shows them, and what ffmpeg says of it."""
    command = [FFMPEG, "-hide_banner", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = subprocess.run(command, capture_output=True, check=True)
    said = shown.stderr.decode()
    width, height = map(int, re.search(r"Video: h264.* (\d+)x(\d+)", said).groups())
    return np.frombuffer(shown.stdout, np.uint8).reshape(-1, height, width, 3), said


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 1e-9)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random network whose predictions differ from frame to frame."""
    file = tmp_path_factory.mktemp("models") / "lvln.safetensors"
    card = replace(CARD, net={"width": 4, "upsample": "bilinear"}, height=HEIGHT, width=WIDTH)
    torch.manual_seed(1)
    net = build_net("lvln", card.net, height=HEIGHT, width=WIDTH)
    with torch.no_grad():
        net.head[0].weight.mul_(20)
    save_model(file, net, card)
    return file


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 frames at 25 fps: 19 at 10 fps."""
    return record(tmp_path_factory.mktemp("videos") / "mine.mp4", *CODECS["mp4"])


def flags(options: dict[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def call(monkeypatch: pytest.MonkeyPatch, **options: object) -> str | int | None:
    """The command in this process -> what it exits with: None, or its message."""
    monkeypatch.setattr(sys, "argv", ["predict", *flags(options)])
    try:
        run("predict", main)
    except SystemExit as exit:
        return exit.code
    return None


def test_from_file_to_files(model: Path, video: Path, tmp_path: Path) -> None:
    """The real command, elsewhere than in the repository: the given frames, then those of `predict`; and beside each
    frame its prediction from the true frames before it."""
    out = tmp_path / "new folder" / "100% out.mp4"
    given = {"model": model, "video": video, "frames": 4, "out": out}
    done = run_stage(tmp_path, "predict", *flags(given))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 19 frames of the video, then 4 predicted\n")
    assert done.stderr == ""
    assert {file.name for file in out.parent.iterdir()} == {"100% out.mp4", "100% out_side_by_side.mp4"}

    net, card = load_model(model)
    (tmp_path / "scratch").mkdir()
    opened = open_own_video(video, tmp_path / "scratch", card, fps=10)
    true = opened.frames(0, 19)
    assert len(opened) == 19

    def foresee(start: int, count: int) -> np.ndarray:
        context = true[None, start - CONTEXT : start] / 255
        with torch.no_grad():
            predictions, _ = predict(net, context, horizon=count, clip_feedback=True)
        return (predictions[0].clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()

    true_images = true.permute(0, 2, 3, 1).numpy()
    scale = 4
    shown, said = watch(out)
    assert shown.shape == (23, scale * HEIGHT, scale * WIDTH, 3)
    shown = shown[:, scale // 2 :: scale, scale // 2 :: scale]
    assert "yuv420p(tv, bt709, progressive)" in said and " 10 fps" in said  # noqa: PT018
    beyond = foresee(19, 4)
    assert [psnr(a, b) > 30 for a, b in zip(shown, [*true_images, *beyond], strict=True)] == [True] * 23
    assert psnr(beyond[0], beyond[1]) < 25  # which of them it is can be told

    beside, _ = watch(tmp_path / "new folder" / "100% out_side_by_side.mp4")
    assert beside.shape == (23, scale * (HEIGHT + 2 * BORDER), 3 * scale * (WIDTH + 2 * BORDER), 3)
    panels = beside[:, scale // 2 :: scale, scale // 2 :: scale].reshape(23, HEIGHT + 2 * BORDER, 3, -1, 3)
    inner = panels[:, BORDER:-BORDER, :, BORDER:-BORDER].swapaxes(1, 2)  # (T, 3 panels, H, W, 3)
    predicted = np.concatenate([true_images[:CONTEXT], *(foresee(start, 4) for start in (3, 7, 11, 15)), beyond])
    for t in range(23):
        assert psnr(inner[t, 1], predicted[t]) > 30
        if t < 19:
            assert psnr(inner[t, 0], true_images[t]) > 30
            gap = np.abs(true_images[t].astype(float) - predicted[t].round())
            assert psnr(inner[t, 2], np.clip(4 * gap, 0, 255)) > 25
        else:
            assert inner[t, [0, 2]].max() < 20
    edge = panels[[0, 2, 3, 18, 19, 22], BORDER // 2, 1, 20]  # the upper border of the middle panel
    none, yellow, red = (False, False, False), (True, True, False), (True, False, False)
    assert [tuple(pixel > 128) for pixel in edge] == [none, none, yellow, yellow, red, red]


@pytest.mark.parametrize("container", CODECS)
def test_any_container(container: str, model: Path, tmp_path: Path) -> None:
    """The frames are those of the source at 0, 0.1, … s, whatever holds them; sizes may be odd."""
    _, card = load_model(model)
    size = "158x90" if container in ("mp4", "mkv", "webm", "avi") else "90x161"
    lossless = record(tmp_path / "reference.mkv", "-c:v", "ffv1", size=size)
    file = record(tmp_path / f"mine.{container}", *CODECS[container], size=size)
    videos = []
    for path in (lossless, file):
        scratch = tmp_path / path.stem
        scratch.mkdir()
        videos.append(open_own_video(path, scratch, card, fps=10))
    assert len(videos[0]) == len(videos[1]) == 19
    true, same = (video.frames(0, 19).numpy() for video in videos)
    assert min(psnr(a, b) for a, b in zip(true, same, strict=True)) > 28


def test_variable_frame_rate_and_a_turned_phone(model: Path, tmp_path: Path) -> None:
    """Time is that of the file, and up is up."""
    _, card = load_model(model)
    file = tmp_path / "slow.mkv"
    record(file, "-vf", "setpts='if(lt(N,25),N,25+(N-25)*4)/25/TB'", "-fps_mode", "vfr", "-c:v", "ffv1")
    opened = open_own_video(file, tmp_path, card, fps=10)
    assert opened.chosen.tolist()[:11] == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25]
    assert set(np.diff(opened.chosen[11:])) == {0, 1}  # 6.25 fps
    turned = tmp_path / "turned.mp4"
    straight = record(tmp_path / "straight.mp4", *CODECS["mp4"])
    subprocess.run([FFMPEG, "-loglevel", "error", "-display_rotation", "180", "-i", straight, "-c", "copy", turned])
    frames = [open_own_video(path, tmp_path, card, fps=10).frames(0, 3).numpy() for path in (straight, turned)]
    assert psnr(frames[0][..., ::-1, ::-1], frames[1]) > 30


@pytest.mark.parametrize("frames", [1, 2, 20])
def test_every_frame_is_predicted_once(frames: int, model: Path, video: Path, tmp_path: Path) -> None:
    net, card = load_model(model)
    opened = open_own_video(video, tmp_path, card, fps=10)
    numbers = []
    for start, predictions in predict_video(net, card, opened, frames=frames):
        numbers += range(start, start + len(predictions))
    assert numbers == list(range(CONTEXT, 19 + frames))


def test_a_video_of_the_context_alone(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to compare with, one run beyond the end; the same bytes again."""
    video = record(tmp_path / "short.mp4", *CODECS["mp4"], seconds=0.24)
    for out in ("a.mp4", "b.mp4"):
        assert call(monkeypatch, model=model, video=video, out=tmp_path / out, frames=1) is None
    shown, _ = watch(tmp_path / "a_side_by_side.mp4")
    assert len(shown) == 4
    for name in ("{}.mp4", "{}_side_by_side.mp4"):
        assert (tmp_path / name.format("a")).read_bytes() == (tmp_path / name.format("b")).read_bytes()


BAD = {
    "no model": ({"model": "lvln"}, r"--model lvln: there is no models/lvln.safetensors; .* \(mine; dvc repro .*"),
    "no such file": ({"model": "my.safetensors"}, r"--model my.safetensors: there is no my.safetensors; give a .*"),
    "model of another kind": (
        {"model": "other.safetensors"},
        r"other.safetensors is not a model file of this version of the project \(.+\)",
    ),
    "no video": ({"video": "gone.mp4"}, r"gone.mp4: no such file"),
    "folder": ({"video": "."}, r"\.: not a file"),
    "text": ({"video": "text.mp4"}, r"text.mp4: not a video: .+"),
    "empty": ({"video": "empty.mp4"}, r"empty.mp4: not a video: .+"),
    "sound": ({"video": "sound.wav"}, r"sound.wav: not a video: .+"),
    "cut": ({"video": "cut.mp4"}, r"cut.mp4: not a video: .+"),
    "too short": ({"fps": 1}, r".*mine.mp4 is too short: its 48 frames make 2 at 1 fps, and lvln needs 3 .*"),
    "no frames": ({"frames": 0}, r"--frames 0 is out of range; allowed: at least 1"),
    "no rate": ({"fps": -1}, r"--fps -1 is out of range; allowed: at least 1"),
    "no mp4": ({"out": "out.avi"}, r"--out out.avi must end in .mp4"),
    "under a file": ({"out": "text.mp4/out.mp4"}, r"--out text.mp4/out.mp4: its folder cannot be made: .+"),
    "a folder's name": ({"out": "taken.mp4"}, r"--out taken.mp4: taken.mp4 is a folder"),
    "the video itself": ({"video": "self.mp4", "out": "./self.mp4"}, r"--out self.mp4 would replace the video itself"),
    "full disk": ({"out": "full.mp4"}, r"full.mp4 cannot be written: .*No space left on device.*"),
    "no writing": ({"out": "/proc/out.mp4"}, r"/proc/out.mp4 cannot be written: .+"),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, video: Path) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("this is no video\n" * 500)
    for name in ("other.safetensors", "models/mine.safetensors"):
        write(folder / name, "nor a model")
    (folder / "empty.mp4").touch()
    (folder / "self.mp4").write_bytes(video.read_bytes())
    (folder / "cut.mp4").write_bytes(video.read_bytes()[:20_000])
    sound = [FFMPEG, "-loglevel", "error", "-f", "lavfi", "-i", "sine=d=1", str(folder / "sound.wav")]
    subprocess.run(sound, check=True)
    (folder / "taken.mp4").mkdir()
    return folder


@pytest.mark.parametrize("name", BAD)
def test_one_clear_line(
    name: str, model: Path, video: Path, bad_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(bad_files)
    if name == "full disk":
        Path(".part_full.mp4").symlink_to("/dev/full")
    changes, expected = BAD[name]
    said = call(monkeypatch, **{"model": model, "video": video, "out": tmp_path / "out.mp4", **changes})
    message = said.strip().splitlines()
    assert len(message) == 2  # the second names the error's type and where the traceback is
    assert re.fullmatch("predict: " + expected, message[0])
    assert Path("runs/predict/traceback.txt").is_file()
    assert not [file for folder in (tmp_path, bad_files) for file in folder.rglob("*out*.mp4*")]
    assert not list(bad_files.glob("full*"))


def test_a_full_disk_under_the_decoded_frames(model: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"mine.mp4 cannot be decoded to .*: No space left on device; TMPDIR may"):
        open_own_video(video, tmp_path, load_model(model)[1], fps=10)


def test_what_is_odd_is_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = record(tmp_path / "slow.mkv", "-r", "5", "-c:v", "ffv1")
    open_own_video(file, tmp_path, load_model(model)[1], fps=10)
    assert "slow.mkv: has 5 fps: frames are repeated to make 10" in capsys.readouterr().err


def test_a_damaged_video_is_taken_with_a_warning(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = record(tmp_path / "damaged.avi", *CODECS["avi"])
    damaged = bytearray(file.read_bytes())
    damaged[30_000:90_000:500] = bytes(120)
    file.write_bytes(damaged)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, model=model, video=file, out="out.mp4") is None
    assert re.search(r"damaged.avi: damaged, \d+ of 4\d frames are not whole \(.+\)\n", capsys.readouterr().err)
    assert len(watch(tmp_path / "out.mp4")[0]) > 15


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    """Of two files being written, neither is replaced when one of them fails."""
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for file in files:
        file.write_text("old")
    (tmp_path / ".part_a.mp4").symlink_to("/dev/full")
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    size = {"height": 64, "width": 64, "fps": 10}

    def write_both() -> None:
        with mp4_writer(files[0], **size) as write_a, mp4_writer(files[1], **size) as write_b:
            for _ in range(2000):
                write_a(frame)
                write_b(frame)

    with pytest.raises(RuntimeError, match=r"a.mp4 cannot be written: .*No space left"):
        write_both()
    assert [file.read_text() for file in files] == ["old", "old"]
    assert sorted(tmp_path.iterdir()) == files
    with pytest.raises(ValueError, match="frame: "), mp4_writer(files[0], **size) as write_a:
        write_a(frame[1:])
    assert files[0].read_text() == "old"


def test_stopped_it_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """SIGTERM while it predicts: no half file, no decoded frames, no traceback."""
    video = record(tmp_path / "long.avi", *CODECS["avi"], seconds=80)
    (tmp_path / "out").mkdir()
    (tmp_path / "tmp").mkdir()
    given = flags({"model": model, "video": video, "out": "out/out.mp4"})
    command = [sys.executable, "-m", "stages.predict", *given]
    env = environment(TMPDIR=str(tmp_path / "tmp"))
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(list(tmp_path.glob("out/.part_*"))) < 2:
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
        assert process.stderr.read() == ""
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "tmp").iterdir())


def test_the_five_lines_of_the_page(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly its code, with a tensor `clip` and a model where it looks for one."""
    page = (ROOT / "docs/training.md").read_text()
    five, export = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len([line for line in five.splitlines() if line and not line.startswith("#")]) == 5
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    Path("models/lvln_warp.safetensors").symlink_to(model)
    names = {"clip": torch.rand(2, 4, 3, HEIGHT, WIDTH)}
    exec(five, names)
    assert names["predicted"].shape == (2, 3, 3, HEIGHT, WIDTH)
    assert not names["predicted"].requires_grad
    exec(export, names)
    again, _ = torch.export.load("first.pt2").module()(names["clip"][:, 0])
    assert again.shape == (2, 3, HEIGHT, WIDTH)
