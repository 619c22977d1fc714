"""What a GPU does in another way than a CPU: graphs, its JPEG decoder, bf16, a full memory, sums in any order.

Each test is for both devices. Where torch sees no GPU, that on a GPU is skipped, or fails with REQUIRE_CUDA=1. What
that on a CPU stands in for is said in each; it also shows that the test itself works.

    REQUIRE_CUDA=1 python -m pytest tests/test_gpu.py -k on_cuda     # as benchmarks/gpu.sh does

Needs no more than pytest, torch, torchvision, lightning and pydantic.
"""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pipeline.training.step
from benchmarks.cases import hardware, make_net
from benchmarks.make_shards import write_shards
from benchmarks.resume import apart
from pipeline.clips.batches import EpochOrder, batches
from pipeline.clips.clips import Clips
from pipeline.clips.shards import open_videos
from pipeline.training.loop import STATE
from pipeline.training.step import Step
from tests.support.steps import LR, begin, case, clips, short
from tests.support.training import (
    LONGER,
    assert_equal,
    config,
    finish,
    losses,
    results,
    run,
    signal_after,
    start_training,
    train_runs,
)

pytestmark = pytest.mark.needs_cuda

DECODERS_OFF = {"mean": 0.5, "most": 4.0}  # levels of 0 … 255, between the decoders of a GPU and a CPU
SAME_CURVE = 1e-3  # part of a loss by which two runs on a GPU may always differ: it adds in varying order


@pytest.fixture(scope="module", params=["cpu", "cuda"], ids=lambda device: f"on_{device}")
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        give_up = pytest.fail if os.environ.get("REQUIRE_CUDA") else pytest.skip
        give_up("torch sees no GPU")
    return request.param


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of textures that move, 32 × 32 pixels, in a folder a rate; but all are the same."""
    out = tmp_path_factory.mktemp("textures")
    for rate in ("25", "15", "10"):
        write_shards(out / rate, videos=40, frames=40, height=32, width=32)
    return out


# --- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["lvln", "lvln_match", "lvln_warp"])
def test_replayed_steps_follow_the_same_curve(device: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs against eager steps, for both batch sizes of an epoch, with and without a mask.

    On the CPU nothing is recorded: `computed_anew` takes the place of torch's recording. That shows what is ours: a
    graph for every shape, inputs that are copied to where it reads them, no trace of the trials before it.
    """
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", computed_anew)
        monkeypatch.setattr(pipeline.training.step, "pick_compile", lambda choice, fabric: choice)
    settings = replace(short(case(model)), context_loss=0.5)
    curves = []
    for compile in (False, "graphs"):
        precision = "bf16-mixed" if device == "cuda" else "32-true"
        step = begin(make_net(model, settings), settings, device=device, precision=precision, compile=compile)
        assert step.compiled == compile
        curve = []
        for i in range(6):
            batch = clips(settings, 2 + i % 2, seed=i).to(device)
            mask = (torch.rand(batch.shape[:2], generator=torch.Generator().manual_seed(i)) < 0.5).to(device)
            curve.append(step(batch, lr=LR, clips_of_all=len(batch), mask=mask if i > 2 else None)[0].item())
        curve += step.evaluate(clips(settings, seed=99).to(device)).tolist()  # by the statistics of batch norms, too
        curves.append(curve)
    assert curves[1] == pytest.approx(curves[0], rel=1e-3 if device == "cuda" else 1e-6)


def computed_anew(body: nn.Module, samples: tuple[Tensor, ...], *, allow_unused_input: bool) -> Callable[..., Tensor]:
    """In place of torch.cuda.make_graphed_callables: three trials, then inputs of these very shapes are copied into
    the samples, from which `body` computes."""
    for _ in range(3):
        body(*samples)

    def replayed(*given: Tensor) -> Tensor:
        assert [x.shape for x in given] == [x.shape for x in samples]
        for sample, x in zip(samples, given, strict=True):
            sample.copy_(x)
        return body(*samples)

    return replayed


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_steps_follow_the_same_curve(device: str, precision: str) -> None:
    """torch.compile against eager steps, for the model that compiles fastest. On a GPU it records CUDA graphs of its
    own kernels; on the CPU there are none. That the loss of every model is one graph is tested in test_step.py."""
    curves = []
    for compiled in (False, True):
        settings = short(case("one_frame", size="64x64", channels=4))
        step = begin(make_net("one_frame", settings), settings, device=device, precision=precision, compile=compiled)
        assert step.compiled is compiled
        batches = [clips(settings, 2, seed=i).to(device) for i in range(6)]
        curves.append([step(batch, lr=LR, clips_of_all=2)[0].item() for batch in batches])
        validated = step.evaluate(clips(settings, 2, seed=99).to(device))
        assert validated.shape == (2,)
        assert validated.isfinite().all()
    assert curves[1] == pytest.approx(curves[0], rel=1e-4 if (precision, device) == ("32-true", "cpu") else 1e-2)


# --- precision -------------------------------------------------------------------------------------------------------


def test_the_loss_curve_in_bf16_is_that_in_float32(device: str) -> None:
    """Ten steps from the same weights on the same clips: every loss to within 1 %, and the model learns. A CPU without
    bf16 arithmetic emulates it, with the same rounding."""
    settings = short(case("lvln", size="64x64", channels=4))
    curves = {}
    for precision in ("32-true", "bf16-mixed"):
        step = begin(make_net("lvln", settings), settings, device=device, precision=precision)
        batches = [clips(settings, seed=i).to(device) for i in range(10)]
        curves[precision] = [step(batch, lr=LR, clips_of_all=len(batch))[0].item() for batch in batches]
    assert curves["bf16-mixed"] == pytest.approx(curves["32-true"], rel=1e-2)
    assert curves["bf16-mixed"] != curves["32-true"]
    assert all(min(curve[5:]) < curve[0] for curve in curves.values())


# --- JPEGs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large_textures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of frames of the report's size: a GPU may decode the smallest ones in another way."""
    out = tmp_path_factory.mktemp("large_textures")
    write_shards(out, videos=8, frames=14, height=128, width=160)
    return out


@pytest.mark.parametrize("workers", [0, 2])
def test_jpegs_decoded_where_the_model_is_are_the_loaders(device: str, large_textures: Path, workers: int) -> None:
    """An epoch by hardware.jpeg_decoder `device` against one by `cpu`. On a GPU pixels may differ by rounding. On the
    CPU both are the same decoder, which takes other ways to the batch."""
    stored = Clips(open_videos(large_textures, "train"), length=4, spacing=9)
    order = EpochOrder(len(stored), 8)
    epochs = []
    for decoder in ("cpu", "device"):
        machine = hardware(device=device, workers=workers, jpeg_decoder=decoder)
        epochs.append(list(batches(stored, order, machine, torch.device(device))))
    assert len(epochs[0]) == len(order) > 1
    for expected, found in zip(*epochs, strict=True):
        assert found.device.type == expected.device.type == device
        assert found.shape == expected.shape
        off = (found.int() - expected.int()).abs().float()
        assert float(off.mean()) <= (DECODERS_OFF["mean"] if device == "cuda" else 0)
        assert float(off.max()) <= (DECODERS_OFF["most"] if device == "cuda" else 0)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_names_what_to_set(
    device: str, textures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU may take no more memory from the first step on, and its own error is explained. A CPU raises no such error,
    so that one is made up."""
    original = Step.__call__

    def full(self: Step, *given: Tensor, **choices: object) -> Tensor:
        if device == "cuda":
            with no_more_memory():
                return original(self, *given, **choices)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(Step, "__call__", full)
    message = (
        rf"train\.lvln\.batch: 8 clips of 4 frames of 32×32 do not fit in the memory of {device}\S*; set it to 4, or "
        r"lower train\.lvln\.height and width; no state had been saved yet\. \(CUDA out of memory\. Tried to allocate "
    )
    with pytest.raises(RuntimeError, match=message):
        run(config(), textures, tmp_path, device=device, compile=False)


@contextmanager
def no_more_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# --- a kill ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(device: str, textures: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    """What runs give that nothing interrupts: on a CPU one, since all are the same, and on a GPU two."""
    folders = [tmp_path_factory.mktemp("undisturbed") for _ in range(2 if device == "cuda" else 1)]
    for folder in folders:
        train_runs("lvln", textures, folder, {"a": LONGER}, {"device": device})
    return [results(folder / "a") for folder in folders]


@pytest.mark.parametrize(
    ("number", "workers", "seed", "times"),
    [
        (signal.SIGKILL, 2, 0, 1),
        pytest.param(signal.SIGKILL, 2, 0, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 1, 1, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 0, 3, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0, 6, 3, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, 8, 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_continues_to_the_same_end(
    device: str,
    textures: Path,
    tmp_path: Path,
    undisturbed: list[list],
    number: int,
    workers: int,
    seed: int,
    times: int,
) -> None:
    """Killed for real: at random moments of an epoch, while it saves, and between the phases, or at one of these
    moments alone. The state is saved after every step, or by the clock now and then.

    On the CPU the end is the same to the bit. On a GPU two runs lie apart anyway, and the interrupted one may lie
    twice as far from the first as the second does, or SAME_CURVE.
    """
    rng = random.Random(seed)
    machine = {"device": device, "workers": workers, "checkpoint_minutes": rng.choice([1e-9, 0.3 / 60])}
    moments = ["phase_1.pt", *(rng.choice([STATE, "state.partial"]) for _ in range(2))]
    rng.shuffle(moments)
    killed = [
        signal_after(
            start_training(textures, tmp_path, {"b": LONGER}, **machine),
            number,
            tmp_path / "b" / moment,
            delay=rng.choice([0, rng.uniform(0, 0.5)]),
        )
        for moment in moments[:times]
    ]
    assert any(killed)
    assert "continuing at step" in finish(start_training(textures, tmp_path, {"b": LONGER}, **machine))
    continued = results(tmp_path / "b")
    if device == "cpu":
        assert_equal(continued, undisturbed[0])
    else:
        first, second, third = (curve(found) for found in (*undisturbed, continued))
        print(f"losses off, most: {apart(first, second):.2g} undisturbed, {apart(first, third):.2g} killed")
        assert apart(first, third) <= max(2 * apart(first, second), SAME_CURVE)


def curve(found: list[dict]) -> dict[str, list[float]]:
    """As benchmarks/resume.py has it."""
    (result,) = found  # of the only rank
    return {"curve": losses(result["curve"]) + losses(result["validation"])}
