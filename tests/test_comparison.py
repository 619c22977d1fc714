"""The probe beside its controls: reading features, accuracies by hand, tables."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline.pages.results import accuracies
from pipeline.probe.accuracy import chance, confusion_rows, fraction_correct, gains, mean_class, summarise, top_k
from pipeline.probe.classifier import ProbeRun, run_probe
from pipeline.probe.comparison import (
    HeldOut,
    Reading,
    accuracy_rows,
    compare,
    correct_by_video,
    headline,
    read,
    read_choice,
    read_held_out,
    summaries,
)
from pipeline.probe.controls import read_memoryless
from pipeline.probe.nearest import nearest
from pipeline.probe.samples import Splits, draws, read_splits
from tests.support.committed import of_committed_figures
from tests.support.evaluation import CPU
from tests.support.import_closure import ROOT
from tests.support.probe import CONFIG, blobs, probe, split_of

QUICK = replace(CONFIG, epochs=2, seeds=(3, 4, 5))


# --- reading ---------------------------------------------------------------------------------------------------------


def stored(folder: Path, splits: list[str], rows: int) -> Path:
    """Numbers that tell their places as features of `trained`."""
    videos = [f"v{i}" for i in range(len(splits))]
    table = {"video": videos, "name": [f"n{i}" for i in range(len(splits))], "label": range(len(splits))}
    pd.DataFrame(table | {"action": "a", "group": 1, "split": splits}).to_csv(folder / "videos.csv", index=False)
    numbers = np.arange(rows * 3, dtype=np.float16).reshape(rows, 3)
    (folder / "trained").mkdir(exist_ok=True)
    np.save(folder / "trained/deepest.npy", numbers)
    np.save(folder / "trained/subsample.npy", 1000 + numbers[:, :2])
    return folder


def test_samples_are_the_clips_of_their_split(tmp_path: Path) -> None:
    splits = read_splits(stored(tmp_path, ["train", "test", "validation", "train"], 8), "trained", "combined")
    assert splits.train.labels.tolist() == [0, 3]
    assert splits.train.clips == 2
    assert len(splits.train) == 4
    assert splits.train.shape == (5,)
    taken = splits.train.take(np.array([3, 0]))
    assert taken.dtype == torch.float32
    assert taken[:, [0, 3]].tolist() == [[21, 1021], [0, 1000]]
    assert splits.test.take(np.array([1])).tolist() == [[9, 10, 11, 1009, 1010]]
    part = read_splits(tmp_path, "trained", "deepest", columns=slice(1, 2)).test
    assert part.take(np.array([0])).tolist() == [[7]]
    second = splits.train.subset(np.array([1]))
    assert (second.labels.tolist(), len(second)) == ([3], 2)
    assert second.take(np.array([0]))[:, 0].tolist() == [18]


def test_bad_features_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no features in .*; make them with: dvc repro features$"):
        read_splits(tmp_path, "trained", "deepest")
    with pytest.raises(ValueError, match=r"no .*trained/predicted\.npy; with predicted in features\.choices"):
        read_splits(stored(tmp_path, ["train", "test"], 2), "trained", "predicted")
    with pytest.raises(ValueError, match=r"no .*still/deepest\.npy; with deepest in features\.choices"):
        read_splits(tmp_path, "still", "deepest")
    with pytest.raises(ValueError, match="no validation video"):
        read_splits(tmp_path, "trained", "deepest")
    with pytest.raises(ValueError, match=r"trained: \[3\] rows do not fit 2 videos"):
        read_splits(stored(tmp_path, ["train", "test"], 3), "trained", "deepest")
    np.save(tmp_path / "trained/subsample.npy", np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"trained: \[3, 2\] rows do not fit 2 videos"):
        read_splits(tmp_path, "trained", "combined")


def test_held_out_videos_are_in_the_features_order(tmp_path: Path) -> None:
    """As those of the splits; classes count the labels of all splits."""
    folder = stored(tmp_path, ["test", "train", "validation", "test", "train"], 5)
    held_out = read_held_out(folder)
    assert held_out.videos == ["v0", "v3"]
    assert torch.equal(held_out.labels, read_splits(folder, "trained", "deepest").test.labels)
    assert held_out.groups == [("a", 1), ("a", 1)]
    assert held_out.names == {i: f"n{i}" for i in range(5)}
    assert held_out.classes == 5


CONTROLS = ("untrained_0", "untrained_1", "untrained_10", "still", "shuffled")


def features(folder: Path) -> Path:
    """Features of all conditions, twelve videos of three classes a split with two clips each."""
    rng, labels = np.random.default_rng(0), np.arange(36) % 3
    table = {"video": [f"v{i}" for i in range(36)], "name": [*"abc"] * 12, "label": labels, "action": [*"abc"] * 12}
    table |= {"group": np.arange(36) // 3, "split": np.repeat(["train", "validation", "test"], 12)}
    pd.DataFrame(table).to_csv(folder / "videos.csv", index=False)
    shapes = {f"{name}/pooled": (6,) for name in ("trained", *CONTROLS)}
    shapes |= {"memoryless/encoder": (1024,), "memoryless/flow": (4, 6), "memoryless/flow_pooled": (24,)}
    for name, shape in shapes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        centres = rng.normal(size=(3, *shape))
        values = centres[labels].repeat(2, 0) + 2 * rng.normal(size=(72, *shape))
        np.save(folder / f"{name}.npy", values.astype(np.float16))
    return folder


def split_up(values: np.ndarray) -> Splits:
    """Those of `features`, clip by clip, as its three splits."""
    return Splits(*(split_of(part, np.arange(12) % 3, clips=2) for part in np.split(values, 3)))


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_one_kind_of_features_is_read_with_every_seed_and_draws_with_the_first() -> None:
    first, second = blobs(24, spread=0.3), blobs(24, spread=1.0)
    settings = {"classes": 4, "device": CPU}
    one, several = read(QUICK, [first], **settings), read(QUICK, [first, second], **settings)
    runs = run_probe(QUICK, first, seeds=(3, 4, 5), **settings)
    assert same(one.top1, [run.scores for run in runs])
    assert [run.curve for run in one.runs] == [run.curve for run in runs]
    assert same(one.nearest, [nearest([first], classes=4)])
    assert same(several.top1, [probe(each, seed=3, epochs=2).scores for each in (first, second)])
    assert same(several.nearest, [nearest([each], classes=4) for each in (first, second)])


def test_a_choice_is_read_under_every_condition(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """And its progress is shown."""
    folder = features(tmp_path)
    assert draws(folder) == ["untrained_0", "untrained_1", "untrained_10"]
    found = read_choice(QUICK, folder, "pooled", classes=3, device=CPU)
    assert list(found) == ["trained", "untrained", "still", "shuffled"]
    shown = capsys.readouterr().err
    for name, reading in found.items():
        assert f"pooled, {name}: 100%" in shown
        parts = draws(folder) if name == "untrained" else [name]
        expected = [split_up(np.load(folder / part / "pooled.npy")) for part in parts]
        assert same(reading.nearest, [nearest([each], classes=3) for each in expected])
        assert same(reading.top1, read(QUICK, expected, classes=3, device=CPU).top1)
        assert len(reading.top1) == 3  # draws, or seeds


def test_what_needs_no_memory(tmp_path: Path) -> None:
    folder = features(tmp_path)
    found = read_memoryless(QUICK, folder, classes=3, device=CPU)
    encoder, flow, pooled = (np.load(folder / f"memoryless/{name}.npy") for name in ("encoder", "flow", "flow_pooled"))
    expected = {
        "conv1": encoder[:, :64],
        "layer1": encoder[:, 64:128],
        "layer2": encoder[:, 128:256],
        "layer3": encoder[:, 256:512],
        "layer4": encoder[:, 512:],
        "encoder": encoder,
        "flow": flow,
        "flow_pooled": pooled,
        "flow_pair": flow[:, :, 4:],
    }
    assert list(found) == [*expected, "encoder_flow", "chance"]
    for name, values in expected.items():
        reading = read(QUICK, [split_up(values)], classes=3, device=CPU)
        assert same(found[name].top1, reading.top1), name
        assert same(found[name].nearest, reading.nearest), name
    joined = found["encoder_flow"]
    pairs = zip(found["encoder"].top1, found["flow"].top1, strict=True)
    assert same(joined.top1, [(a + b) / 2 for a, b in pairs])
    assert same(joined.nearest, [nearest([split_up(encoder), split_up(flow)], classes=3)])
    assert found["chance"].top1[0].tolist() == found["chance"].nearest[0].tolist() == [[4, 4, 4]] * 12


# --- the table -------------------------------------------------------------------------------------------------------


def test_top_k_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.05, 0.03], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 0, 0])
    assert top_k(scores, labels, 1) == pytest.approx(1 / 3)
    assert top_k(scores, labels, 2) == pytest.approx(2 / 3)
    assert top_k(scores, labels, 5) == 1


def test_chance_is_the_most_frequent_class() -> None:
    scores = chance(torch.tensor([0, 1, 1, 1, 2]), 4, classes=3)
    labels = torch.tensor([1, 1, 0, 2])
    assert (top_k(scores, labels, 1), top_k(scores, labels, 5)) == (0.5, 1.0)


RUNS = [torch.eye(3)[torch.tensor(named)] for named in ([0, 1, 2, 0], [0, 0, 2, 1])]
LABELS = torch.tensor([0, 1, 2, 2])
GROUPS = [("a", 1), ("a", 1), ("a", 2), ("a", 2)]


def test_summary_and_classes_by_hand() -> None:
    assert fraction_correct(RUNS, LABELS).tolist() == [1, 0.5, 1, 0]
    table = summarise(RUNS, LABELS, GROUPS, resamples=500)
    assert table["value"] == pytest.approx(0.625)
    assert table["spread"] == pytest.approx(0.125 * 2**0.5)
    assert summarise(RUNS[:1], LABELS, GROUPS, resamples=5)["spread"] == 0
    assert (table["low"], table["high"]) == pytest.approx((0.5, 0.75))  # the two groups' own means
    apart = [("a", 1), ("b", 1), ("c", 2), ("c", 2)]  # one group a class: no interval
    assert set(summarise(RUNS, LABELS, apart, resamples=5)) == {"value", "spread"}
    rows = confusion_rows(RUNS, LABELS, {0: "a", 1: "b", 2: "c"})
    assert [tuple(row.values()) for row in rows] == [
        *[("a", "a", 1.0), ("b", "a", 0.5), ("b", "b", 0.5), ("c", "a", 0.25), ("c", "b", 0.25), ("c", "c", 0.5)]
    ]
    assert mean_class(rows) == pytest.approx(2 / 3)  # top-1 is 0.625: c has two videos
    never = confusion_rows([torch.eye(3)[torch.tensor([1, 1, 2, 2])]], LABELS, {0: "a", 1: "b", 2: "c"})
    assert {"actual": "a", "predicted": "a", "share": 0.0} in never  # though none is right


def test_gains_are_paired_by_video() -> None:
    """Always better by the same amount: no interval, however much the videos differ."""
    probe = np.array([1.0, 0.5, 1.0, 0.5])
    controls = pd.DataFrame({"a": probe - 0.5, "b": [0.0, 0.0, 1.0, 1.0]})
    found = gains(probe, controls, GROUPS, resamples=500)
    assert found["a"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert found["b"]["value"] == 0.25
    assert (found["b"]["low"], found["b"]["high"]) == (-0.25, 0.75)


HELD_OUT = HeldOut(["p", "q", "r", "s"], GROUPS, LABELS, {0: "a", 1: "b", 2: "c"})
SURE = Reading([chance(torch.tensor([2]), 4, classes=3)], [chance(torch.tensor([2]), 4, classes=3)])
BESIDE = {"trained": Reading(RUNS, RUNS[:1]), "chance": SURE}  # right: 0.625 by heads, 0.75 by the nearest


def test_a_probe_beside_its_controls() -> None:
    correct = {reading: correct_by_video(BESIDE, HELD_OUT, reading) for reading in ("top1", "nearest")}
    assert correct["top1"].loc["q"].to_dict() == {"trained": 0.5, "chance": 0}
    assert correct["nearest"].loc["q"].to_dict() == {"trained": 1, "chance": 0}
    shuffled = pd.Index([*"srqp"], name="video")  # each is found by its name
    others = {
        "top1": pd.DataFrame({"encoder": [0.0, 1.0, 0.0, 0.0]}, index=shuffled),
        "nearest": pd.DataFrame({"encoder": [0.0, 0.0, 1.0, 1.0]}, index=shuffled),
    }
    rows = compare(BESIDE, HELD_OUT, resamples=50, others=others)
    assert rows["probe", "top1"] == summarise(RUNS, LABELS, GROUPS, resamples=50)
    assert rows["probe", "nearest"] == summarise(RUNS[:1], LABELS, GROUPS, resamples=50)
    values = {key: row["value"] for key, row in rows.items()}
    assert values == {
        ("probe", "top1"): 0.625,
        ("probe", "nearest"): 0.75,
        ("probe", "top5"): 1,
        ("chance", "top1"): 0.5,
        ("chance", "nearest"): 0.5,
        ("chance", "top5"): 1,
        ("chance", "gain"): 0.125,
        ("encoder", "gain"): 0.375,
        ("chance", "nearest_gain"): 0.25,
        ("encoder", "nearest_gain"): 0.25,
    }
    # By video the heads are better by 1, 0.5, 0 and 0 than the encoder: by group by 0.75 and 0.
    assert (rows["encoder", "gain"]["low"], rows["encoder", "gain"]["high"]) == (0, 0.75)
    own = compare(BESIDE, HELD_OUT, resamples=50, others={})
    assert own.keys() == {key for key in rows if key[0] != "encoder"}
    alone = summaries({"chance": SURE}, HELD_OUT, resamples=50)
    assert alone == {("chance", metric): rows["chance", metric] for metric in ("top1", "nearest", "top5")}


def test_rows_of_a_table() -> None:
    rows = compare(BESIDE, HELD_OUT, resamples=50, others={}) | {("probe", "mean_class"): {"value": 0.5}}
    table = accuracy_rows(rows, features="pooled")
    assert [(row["control"], row["metric"]) for row in table] == list(rows)
    first, last = table[0], table[-1]
    assert list(first) == list(last) == ["features", "control", "metric", "value", "low", "high", "spread"]
    assert first.items() >= {"features": "pooled", "value": 0.625, "low": 0.5, "high": 0.75}.items()
    assert first["spread"] == pytest.approx(0.125 * 2**0.5)
    assert last.items() >= {"value": 0.5, "low": None, "high": None, "spread": None}.items()


def test_the_metrics_of_a_probe() -> None:
    gains = {"encoder": 0.2, "flow": 0.10049, "untrained": -0.0123, "chance": 0.5}
    rows = {(name, "gain"): {"value": value, "low": 0} for name, value in gains.items()}
    rows |= {("probe", "top1"): {"value": 0.62549, "low": 0.5}, ("probe", "nearest"): {"value": 0.5}}
    assert headline(rows) == {"top1": 0.625, "vs_encoder": 0.2, "vs_flow": 0.1, "vs_untrained": -0.012}


def test_rows_of_curves() -> None:
    curve = [{"epoch": 1, "train": 0.5, "validation": 0.25}]
    run = ProbeRun(curve, [{"epoch": 0.5, "validation": 1.0}], torch.zeros(1, 1), 1, 0.1, 0.0)
    assert [tuple(row.values()) for row in run.rows()] == [
        (1, "train", 0.5),
        (1, "validation", 0.25),
        (0.5, "sample", 1.0),
    ]


def test_chance_on_balanced_classes_is_certain() -> None:
    """As many groups of each class are in every resample."""
    labels = torch.arange(4).repeat_interleave(6)
    groups = [("abcd"[k], i // 2) for k in range(4) for i in range(6)]
    table = summarise([chance(labels, 24, classes=4)], labels, groups, resamples=200)
    assert (table["value"], table["low"], table["high"]) == (0.25, 0.25, 0.25)


# --- the committed figures -------------------------------------------------------------------------------------------


@of_committed_figures
def test_frames_alone_do_not_tell_the_generated_actions() -> None:
    """What the probe of the hidden states is compared with, on plots/: no single frame tells these videos apart."""
    assert accuracies(ROOT / "plots/controls.csv", "top1").loc["encoder"]["value"] < 0.25
    assert accuracies(ROOT / "plots/probe/attentive/accuracy.csv", "top1").loc["probe"]["value"] > 0.25


def pretrained(name: str) -> pd.DataFrame:
    """Rows of plots/pretraining by (features, metric, control)."""
    table = pd.read_csv(ROOT / "plots/pretraining" / name / "accuracy.csv")
    return table.set_index(["features", "metric", "control"])


@of_committed_figures
def test_prediction_teaches_the_states_motion() -> None:
    """Without a flow that is given: far above the untrained network, above optical flow, and growing with training."""
    found = pretrained("lvln_match")
    assert found.loc["attentive", "top1", "probe"]["value"] >= 0.88
    assert found.loc["attentive", "gain", "untrained"]["value"] >= 0.25
    for control in ("untrained", "flow", "encoder", "still", "shuffled"):
        assert found.loc["attentive", "gain", control]["low"] > 0, control
    looks = pd.read_csv(ROOT / "plots/pretraining/lvln_match/steps.csv")
    followed = looks[looks["control"] == "probe"].sort_values("step")["value"]
    assert followed.iloc[-2:].min() > followed.iloc[2:4].max() > followed.iloc[:2].max()


@of_committed_figures
def test_only_the_order_of_many_frames_tells_orders() -> None:
    """One frame, one pair of frames and frames in no order are at chance; the flow of all pairs is far above it. Of the
    last states, prediction has taught some of that order."""
    found = pretrained("orders")
    for choice, control in product(("pooled", "attentive"), ("untrained", "flow_pair", "encoder", "still", "shuffled")):
        assert found.loc[choice, "gain", control]["low"] > 0, (choice, control)
    for features, control in [*(("memoryless", name) for name in ("flow_pair", "encoder")), *STILL]:
        row = found.loc[features, "top1", control]
        assert row["low"] < 0.125 < row["high"], (features, control)
    assert found.loc["memoryless", "top1", "flow_pooled"]["low"] > 0.5


STILL = [(choice, condition) for choice in ("pooled", "attentive") for condition in ("still", "shuffled")]
