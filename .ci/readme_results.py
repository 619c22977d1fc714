"""Writes the results tables of README.md from metrics/, each between its two markers; --check only compares.

python .ci/readme_results.py [--check]
"""

import json
import sys
from pathlib import Path

MODELS = ("lvln", "one_frame", "full_res", "lvln_warp")
BASELINES = ("copy_last", "mean_of_two", "constant_velocity", "half_velocity", "oracle")
CHOICES = ("deepest", "subsample", "combined", "pooled", "attentive")

SHOWN = {"psnr": 2, "ssim": 4, "psnr_moving": 2, "gradient_ratio": 2, "nyquist_ratio": 2}  # digits
LEVERS = {  # runs of experiments/runs.yaml
    "as_it_is": "as it is",
    "residual": "adds a colour instead of moving pixels",
    "redraw": "redraws, as the report",
    "no_observed_flow": "no observed flow",
    "cost_volume": "cost volume, radius 4",
    "batch_norm": "batch norm",
    "no_icnr": "no ICNR",
    "no_observed_loss": "no loss on seeds",
    "second_output": "second output, as the report's code (no loss on seeds)",
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


def steps(values: dict[str, float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values.values())


def predictors(folder: str, models: tuple[str, ...]) -> list[str]:
    """A Markdown table: the models, and the baselines on the clips of the last of them."""
    lines = [
        "| predictor | PSNR (dB) | SSIM | PSNR, moving | SSIM, moving | gradient energy | Nyquist share |",
        "|---|---|---|---|---|---|---|",
    ]
    tables = {model: read(f"{folder}/evaluate_{model}.json") for model in models}
    rows = {model: table["model"] for model, table in tables.items()}
    rows |= {name: tables[models[-1]][name] for name in BASELINES}
    for name, row in rows.items():
        cells = [steps(row["psnr"], 2), steps(row["ssim"], 3)]
        cells += [steps(row["psnr_moving"], 2), steps(row["ssim_moving"], 3)]
        cells += [steps(row["gradient_ratio"], 2), steps(row["nyquist_ratio"], 2)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def gains(folder: str, models: tuple[str, ...]) -> list[str]:
    """A Markdown table: models minus baselines, frame by frame, with intervals."""
    lines = ["| | metric | 1 ahead | 2 ahead | 3 ahead |", "|---|---|---|---|---|"]
    for model in models:
        table = read(f"{folder}/evaluate_{model}.json")
        for name in ("copy_last", "constant_velocity", "half_velocity"):
            row = table[f"model_over_{name}"]
            for metric, digits in (("psnr", 2), ("ssim", 4), ("psnr_moving", 2), ("ssim_moving", 4)):
                cells = [
                    f"{row[metric][k]:+.{digits}f} [{row[metric + '_low'][k]:+.{digits}f}, "
                    f"{row[metric + '_high'][k]:+.{digits}f}]"
                    for k in row[metric]
                ]
                lines.append(f"| {model} − {name} | {metric} | {' | '.join(cells)} |")
    return lines


def share(row: dict[str, float]) -> str:
    """Top-1 in per cent, ± its spread over seeds, [interval]."""
    ends = f" [{100 * row['top1_low']:.1f}, {100 * row['top1_high']:.1f}]" if "top1_low" in row else ""
    return f"{100 * row['top1']:.1f} ± {100 * row['top1_std']:.1f}{ends}"


def gain(row: dict[str, float]) -> str:
    """The same of a difference, with its sign."""
    ends = f" [{100 * row['top1_low']:+.1f}, {100 * row['top1_high']:+.1f}]" if "top1_low" in row else ""
    return f"{100 * row['top1']:+.1f}{ends}"


def probes(folder: str) -> list[str]:
    """Two Markdown tables: every choice beside the controls of its own, and the controls that all share."""
    lines = [
        "| features | numbers | probe | untrained | one frame | shuffled | probe − encoder | probe − untrained |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for choice in CHOICES:
        table = read(f"{folder}/probe_{choice}.json")
        controls = [share(table["controls"][name]) for name in ("untrained", "still", "shuffled")]
        cells = [f"{table['data']['numbers']:,}", share(table["probe"]), *controls]
        cells += [gain(table["gain"][name]) for name in ("encoder", "untrained")]
        lines.append(f"| {choice} | {' | '.join(cells)} |")
    common = read(f"{folder}/controls.json")
    names = ("encoder", "conv1", "layer1", "layer2", "layer3", "layer4", "chance")
    lines += ["", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
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
    lines = [
        "| lever | run | PSNR (dB) | SSIM | PSNR, moving | gradient energy | Nyquist share "
        "| first prediction is most like frame |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run, name in LEVERS.items():
        file = f"metrics/experiments/lvln_warp_{run}.json"
        if not Path(file).exists():
            lines.append(f"| {name} | `{run}` | not measured | | | | | |")
            continue
        found, cells = read(file), []
        for metric, digits in SHOWN.items():
            spread = max(found["model"][f"{metric}_std"].values())
            cells.append(f"{steps(found['model'][metric], digits)} ± {spread:.{digits}f}")
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
