"""Writes the results tables of README.md from metrics/*.json, between its two markers; --check only compares.

python .ci/readme_results.py [--check]
"""

import json
import sys
from pathlib import Path

START, END = "<!-- results: written by .ci/readme_results.py -->", "<!-- end of results -->"
MODELS = ("lvln", "one_frame", "full_res", "lvln_warp")
CHOICES = ("deepest", "subsample", "combined")


def read(name: str) -> dict:
    return json.loads(Path(f"metrics/{name}.json").read_text())


def steps(values: dict[str, float], digits: int) -> str:
    return " / ".join(f"{value:.{digits}f}" for value in values.values())


def tables() -> str:
    """Two Markdown tables: prediction quality per model, and the probes with their controls."""
    lines = [
        "Test split, 10 fps, three frames ahead; each cell holds steps 1 / 2 / 3.",
        "",
        "| model | PSNR (dB) | copy-last | SSIM | copy-last | trainable parameters |",
        "|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        quality = read(f"evaluate_{model}")
        ours, copy = quality["model"], quality["copy_last"]
        count = read(f"train_{model}")["parameters"]["trainable"]
        lines.append(
            f"| {model} | {steps(ours['psnr'], 2)} | {steps(copy['psnr'], 2)} "
            f"| {steps(ours['ssim'], 3)} | {steps(copy['ssim'], 3)} | {count:,} |"
        )
    lines += [
        "",
        "| probe features | numbers | top-1 | top-5 | encoder alone, top-1 | chance, top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for choice in CHOICES:
        probe = read(f"probe_{choice}")
        ours, encoder = probe["probe"], probe["controls"]["encoder"]
        lines.append(
            f"| {choice} | {ours['features']:,} | {ours['top1']:.1%} ± {ours['top1_std']:.1%} | {ours['top5']:.1%} "
            f"| {encoder['top1']:.1%} ± {encoder['top1_std']:.1%} | {probe['controls']['chance']['top1']:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    file = Path("README.md")
    text = file.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    wanted = f"{before}{START}\n\n{tables()}\n\n{END}{after}"
    if "--check" in sys.argv:
        sys.exit(None if text == wanted else "README.md does not show metrics/*.json: python .ci/readme_results.py")
    file.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
