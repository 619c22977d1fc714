"""What the pages say of the disk, against the files that the stages write."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.clips.shards import RATES, open_shard, open_videos
from pipeline.cost.data_set import UCF101, DataSet, jpeg_bytes
from pipeline.cost.disk import (
    Use,
    at_most,
    disk_use,
    feature_shapes,
    features_bytes,
    meta_net,
    models_bytes,
    shards_bytes,
    state_bytes,
)
from pipeline.datasets import ucf101
from pipeline.pages.cost import disk
from pipeline.probe.features.conditions import FeaturesConfig, items
from pipeline.probe.features.extract import extract
from pipeline.settings import overlay, read_params
from pipeline.training.model_file import save_model
from stages.preset import with_preset
from tests.support import training
from tests.support.decode import decode_config
from tests.support.evaluation import CARD
from tests.support.import_closure import ROOT
from tests.support.nets import VARIANTS, small

FEATURES = FeaturesConfig(
    model="lvln_warp",
    labels="actions",
    fps=10,
    clips=2,
    frames=4,
    choices=("deepest", "subsample", "pooled", "attentive"),
    states="last",
    token_stride=16,
    untrained=2,
    batch=5,
    seed=0,
)
PRESET = with_preset(ROOT / "presets/ucf101.yaml", ROOT / "params.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": "directions", "states": "differences", "choices": ("attentive", "predicted", "errors")},
        {"model": "full_res", "states": "every", "clips": 1, "token_stride": 8},
    ],
)
def test_features_are_as_large_as_the_files(changes: dict, shards: Path, tmp_path: Path) -> None:
    """To the byte, but for the header of each file."""
    config = replace(FEATURES, **changes)
    train = training.config(config.model)
    videos = {split: open_videos(shards / "10", split)[:3] for split in ("train", "test")}
    card = replace(CARD, model=config.model, net=asdict(VARIANTS[config.model][1]))
    names = {"model_sha256": "x", "work": tmp_path / "work", "conditions": config.conditions}
    net = small(config.model, height=32, width=32).eval()
    found = extract(config, net, card, items(videos, config), tmp_path / "features", **names)
    shapes = feature_shapes(config, train)
    assert {name: list(shape) for name, shape in shapes.items()} == found
    files = list(tmp_path.glob("features/*/*.npy"))
    written = sum(np.load(file, mmap_mode="r").nbytes for file in files)
    assert features_bytes(shapes, config, videos=6) == written
    headers = sum(file.stat().st_size for file in files) - written
    assert headers == 128 * len(files)


def test_models_are_as_large_as_their_files(tmp_path: Path) -> None:
    """Within 1 %: the header is left out."""
    for name in VARIANTS:
        config = training.config(name)
        net = training.fresh(config, name)
        save_model(tmp_path / f"{name}.safetensors", net, config.card(name, {}, test_digest=""))
        size = (tmp_path / f"{name}.safetensors").stat().st_size
        assert models_bytes(meta_net(name, config), config) / (1 + len(config.curriculum)) == pytest.approx(size, 0.01)


def test_states_are_as_large_as_those_of_a_run(shards: Path, tmp_path: Path) -> None:
    """Within 5 %: of a network so narrow the names and numbers weigh more than of any in use."""
    changes = {"net": {"width": 16}, "optimizer": {"ema": 0.5}, "curriculum": training.curriculum((15, 1), (10, 1))}
    config = training.config("lvln", **changes)
    training.run(config, shards, tmp_path)
    net = meta_net("lvln", config)
    for name, phases in (("phase_1.pt", 1), ("state.pt", 2)):
        assert state_bytes(net, config, phases) == pytest.approx((tmp_path / name).stat().st_size, 0.05)


def test_shards_are_as_large_as_their_files(shards: Path) -> None:
    """Within 1 %, given the bytes of their frames."""
    for rate in RATES:
        tars = list((shards / str(rate)).glob("*.tar"))
        videos = [video for tar in tars for video in open_shard(tar)]
        frames = sum(video.info.frames for video in videos)
        jpegs = sum(video.info.offsets[-1] for video in videos)
        sizes = {"train": len(videos), "validation": 0, "test": 0, "seconds": frames / rate}
        data = DataSet(name="", classes=8, source_frames=0, archives=0, files=0, **sizes)
        written = sum(tar.stat().st_size for tar in tars)
        assert shards_bytes(data, decode_config(), rate, jpeg=jpegs / frames) == pytest.approx(written, 0.01)
        assert jpegs < 0.96 * written  # else the rest would not be seen to be counted


def test_the_shards_of_the_whole_of_ucf101_are_as_the_benchmark_found() -> None:
    """benchmarks/README.md, full size: 23.4, 14.1 and 9.4 GiB, of 2,429,846 source frames."""
    data = replace(UCF101, seconds=UCF101.seconds * 2_429_846 / 2.48e6)
    config, jpeg = decode_config(videos_per_shard=64), jpeg_bytes(128, 160)
    sizes = [shards_bytes(data, config, rate, jpeg=jpeg) / 2**30 for rate in RATES]
    assert sizes == pytest.approx([23.4, 14.1, 9.4], rel=0.01)


def test_the_features_of_the_whole_of_ucf101_fit() -> None:
    kept = {use.stage: use.kept for use in disk_use(PRESET, UCF101)}
    assert 10e9 < kept["features"] <= 20e9


@pytest.mark.parametrize(("size", "measured"), [((32, 32), 1596), ((64, 96), 4682), ((128, 160), 11082)])
def test_a_stored_frame_is_as_large_as_was_measured(size: tuple[int, int], measured: int) -> None:
    assert jpeg_bytes(*size) == pytest.approx(measured)
    assert jpeg_bytes(size[0], size[1] - 1) < measured < jpeg_bytes(size[0], size[1] + 1) < 1.05 * measured


def test_the_archives_are_there_only_while_fetch_runs() -> None:
    uses = [Use("fetch", "", 10, 20), Use("decode", "", 15), Use("train", "", 1, 2)]
    assert at_most(uses) == 30
    assert at_most([*uses, Use("features", "", 5)]) == 31
    fetch = disk_use(PRESET, UCF101)[0]
    assert fetch.passing == ucf101.VIDEOS_ARCHIVE.bytes + ucf101.LISTS_ARCHIVE.bytes < fetch.kept


def test_the_preset_says_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = disk("ucf101")
    total = round(float(lines[-1].split("|")[3]))
    assert f"some {total} GB of disk" in Path("presets/ucf101.yaml").read_text()
    assert f"some {total} GB of disk" in Path("docs/data.md").read_text()


def test_what_was_not_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=r"decode\.jpeg_quality: 80; the bytes of a frame were measured with 96"):
        disk_use(PRESET | {"decode": PRESET["decode"] | {"jpeg_quality": 80}}, UCF101)
    whole = read_params()
    overlay(whole, {"features": {"frames": 0, "clips": 1}})
    with pytest.raises(ValueError, match=r"features\.frames: 0, whole videos"):
        disk_use(whole, UCF101)
