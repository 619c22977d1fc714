"""Shared by all tests: small generated shards, real clips where they are, and no leaking random state.

What makes videos and decodes them is imported by the fixtures that need it: tests/test_gpu.py runs where there is no
ffmpeg and no pandas. And torch by those that set it up: the process that hands out the tests needs none.
"""

import gc
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.import_closure import ROOT

REAL_CLIPS = ROOT.parent / "shared" / "data" / "ucf101-mini"
REAL_WEIGHTS = REAL_CLIPS.parent / "weights" / "resnet18_imagenet_conv1_to_layer3.pth"
# The files that take longest, in this order: with the slow tests the first row, else from a minute down to 15 seconds.
LONG = (
    *("pipeline", "walkthrough", "gpu_script", "quality", "gpu_quality", "compare"),
    *("resume_decode", "experiments", "gpu", "training", "ranks", "bad_videos", "features", "predict", "score"),
    *("beyond_the_report", "step", "warping", "nets", "pages", "baseline_values", "time_to_beat", "disk", "cost"),
    *("export", "clips", "full_scale", "circles"),
)


def pytest_configure() -> None:
    """A shell has its background jobs ignore Ctrl-C, as the stages that are interrupted here would. And as in a stage,
    no garbage is looked for among what is imported (stages/entry.py)."""
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that none of them is waited for alone at the end."""
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in the processes that tests start (tests/support/project.py), for the same bits."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_clips() -> Path:
    if not REAL_CLIPS.is_dir():
        pytest.skip("the real UCF101 clips are not on this machine")
    return REAL_CLIPS


@pytest.fixture(scope="session")
def real_weights() -> Path:
    if not REAL_WEIGHTS.is_file():
        pytest.skip("the real encoder weights are not on this machine")
    return REAL_WEIGHTS


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this name that `make` fills. The workers of pytest-xdist share it: the first that asks makes it, and
    the others wait. No test may write in it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, partial = shared / name, shared / f"{name}.partial"
    with FileLock(shared / f"{name}.lock"):
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def raw_motions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 classes × 22 groups × 1 video of 30 frames, as the stage fetch leaves them."""
    from pipeline.datasets import motions
    from pipeline.datasets.table import write_table

    def make(raw: Path) -> None:
        write_table(motions.make_table(motions.MotionsConfig(seed=3, groups=22, clips=1, frames=30), raw), raw)

    return made_once(tmp_path_factory, "raw_motions", make)


@pytest.fixture(scope="session")
def shards(raw_motions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of raw_motions at 25, 15 and 10 fps, 32 × 32 pixels, and manifest.csv."""
    from pipeline.decode.dataset import decode_dataset, write_manifest
    from tests.support.decode import decode_config

    def make(out: Path) -> None:
        write_manifest(out / "manifest.csv", decode_dataset(raw_motions, decode_config(), work=out))

    return made_once(tmp_path_factory, "shards", make)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Two classes, three splits, with the line ends of the official files."""
    from tests.support.decode import write_lists
    from tests.support.videos import ARCHERY, HANDSTAND

    return write_lists(tmp_path / "ucfTrainTestlist", {"train": [ARCHERY], "test": [HANDSTAND]})
