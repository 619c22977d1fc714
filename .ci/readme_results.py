"""Writes the results tables of README.md from metrics/, each between its two markers; --check only compares.

python .ci/readme_results.py [--check]
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.evaluation.baselines import BASELINES
from pipeline.evaluation.metrics import digits
from pipeline.evaluation.score import COMPARED, WITH_INTERVALS
from pipeline.experiments.tables import SHOWN, difference, each_step, heading, spread
from pipeline.probe.samples import CHOICES
from pipeline.settings import read_params

MODELS = tuple(read_params()["train"])
TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "psnr_moving": "PSNR, moving",
    "ssim_moving": "SSIM, moving",
    "gradient_ratio": "gradient energy",
    "nyquist_ratio": "Nyquist share",
}
LEVERS = {  # runs of experiments/runs.yaml
    "as_it_is": "as it is",
    "residual": "adds a colour instead of moving pixels",
    "redraw": "redraws, as the report",
    "no_observed_flow": "no observed flow",
    "cost_volume": "cost volume, radius 4",
    "batch_norm": "batch norm",
    "no_icnr": "no ICNR",
    "no_context_loss": "no loss on context frames",
    "off_by_one": "off by one, as the report's code (no loss on context frames)",
    "report_loss": "the report's loss",
    "laplacian": "Laplacian pyramid",
    "ms_ssim": "MS-SSIM, L1, gradient difference",
    "not_mirrored": "no mirroring, no reversal",
    "cropped": "crops down to 0.8",
    "strided": "random stride up to 2",
    "sampling": "reverse scheduled sampling",
    "ema": "running mean of the weights",
}


def read(name: str) -> dict:
    return json.loads(Path(name).read_text())


def predictors(folder: str, models: tuple[str, ...]) -> list[str]:
    """A Markdown table: the models, and the baselines on the clips of the last of them."""
    lines = heading("predictor", *TITLES.values())
    tables = {model: read(f"{folder}/evaluate_{model}.json") for model in models}
    rows = {model: table["model"] for model, table in tables.items()}
    rows |= {name: tables[models[-1]][name] for name in BASELINES}
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(each_step(row[metric], digits(metric)) for metric in TITLES)} |")
    return lines


def gains(folder: str, models: tuple[str, ...]) -> list[str]:
    """A Markdown table: models minus baselines, frame by frame, with intervals."""
    lines = heading("", "metric", "1 ahead", "2 ahead", "3 ahead")
    for model in models:
        table = read(f"{folder}/evaluate_{model}.json")
        for name in COMPARED:
            row = table[f"model_over_{name}"]
            for metric in WITH_INTERVALS:
                found = zip(*(row[metric + end].values() for end in ("", "_low", "_high")), strict=True)
                number = f"{{:+.{digits(metric)}f}}"
                cells = (f"{number} [{number}, {number}]".format(*values) for values in found)
                lines.append(f"| {model} − {name} | {metric} | {' | '.join(cells)} |")
    return lines


def share(row: dict[str, float]) -> str:
    """Top-1 in per cent, ± its spread over seeds, [interval]."""
    ends = f" [{100 * row['top1_low']:.1f}, {100 * row['top1_high']:.1f}]" if "top1_low" in row else ""
    return f"{100 * row['top1']:.1f} ± {100 * row['top1_std']:.1f}{ends}"


def probes(folder: str) -> list[str]:
    """Two Markdown tables: every choice beside the controls of its own, and the controls that all share."""
    titles = ("probe", "untrained", "one frame", "shuffled", "probe − encoder", "probe − untrained")
    lines = heading("features", "dimensions", *titles)
    for choice in CHOICES:
        table = read(f"{folder}/probe_{choice}.json")
        cells = [f"{table['data']['dimensions']:,}", share(table["probe"])]
        cells += [share(table["controls"][name]) for name in ("untrained", "still", "shuffled")]
        cells += [difference(table["gain"][name]) for name in ("encoder", "untrained")]
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    common = read(f"{folder}/controls.json")
    names = ("encoder", "conv1", "layer1", "layer2", "layer3", "layer4", "chance")
    lines += ["", *heading("", *names)]
    lines.append(f"| top-1 (%) | {' | '.join(share(common[name]) for name in names)} |")
    return lines


def default_data() -> list[str]:
    counts = ", ".join(
        f"{model} {read(f'metrics/train_{model}.json')['parameters']['trainable']:,}" for model in MODELS
    )
    return [
        *predictors("metrics", MODELS),
        "",
        f"Trainable parameters: {counts}.",
        "",
        *gains("metrics", ("lvln_warp",)),
        "",
        *probes("metrics"),
    ]


def real_data() -> list[str]:
    folder = "metrics/ucf101_mini"
    return [*predictors(folder, ("lvln_warp",)), "", *gains(folder, ("lvln_warp",)), "", *probes(folder)]


def levers() -> list[str]:
    lines = heading("lever", "run", *(TITLES[metric] for metric in SHOWN), "first prediction is most like frame")
    runs = read("metrics/experiments/lvln_warp.json")
    for run, name in LEVERS.items():
        if run not in runs:
            lines.append(f"| {name} | `{run}` | not measured | | | | | |")
            continue
        found = runs[run]
        cells = [spread(found["model"], metric, digits) for metric, digits in SHOWN.items()]
        lines.append(f"| {name} | `{run}` | {' | '.join(cells)} | {', '.join(sorted(found['like']))} |")
    return lines


TABLES = {"results": default_data, "real clips": real_data, "levers": levers}


def main() -> None:
    file = Path("README.md")
    text = wanted = file.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        start, end = f"<!-- {name}: written by .ci/readme_results.py -->", f"<!-- end of {name} -->"
        if start not in wanted or end not in wanted:
            sys.exit(f"README.md lacks the markers {start} and {end}")
        before, _, rest = wanted.partition(start)
        lines = "\n".join(make())
        wanted = f"{before}{start}\n\n{lines}\n\n{end}{rest.partition(end)[2]}"
    if "--check" in sys.argv:
        sys.exit(None if text == wanted else "README.md does not show the figures: python .ci/readme_results.py")
    file.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
