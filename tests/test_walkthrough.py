"""docs/walkthrough.md as its reader runs it: every command, in order, in one shell; and what it says is seen."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.import_closure import ROOT
from tests.support.project import call, copy_project, ran

pytestmark = pytest.mark.timeout(1800)

PAGE = (ROOT / "docs/walkthrough.md").read_text()
EXPERIMENT = {"train@one_frame", "evaluate@one_frame"}
RUNS = {  # the only commands after which stages run: which; None: whichever there are
    "dvc repro": None,  # the first time only
    "dvc exp run -n slower -S train.one_frame.optimizer.lr=1e-5": EXPERIMENT,
    "dvc exp run -S decode.height=100": {"decode"},
    "dvc queue logs rate-1": EXPERIMENT,
    "dvc repro evaluate@one_frame": {"fetch", "decode"} | EXPERIMENT,
}
FAILS = {"dvc exp run -S decode.height=100"}
EXACT = {"git status --short"}  # shown whole
END = "walkthrough-command-ended-with"


@dataclass
class Step:
    command: str
    shown: list[str] = field(default_factory=list)
    output: str = ""
    seconds: float = 0.0


def read(page: str) -> tuple[list[Step], str]:
    """The commands of all fences with the output shown after each; and the text without the fences."""
    steps: list[Step] = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S):
        assert language == "console", f"a fence of {language!r}: its commands would not be run"
        assert block.startswith("$ "), block
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:]))
            elif line.startswith("> "):  # the command goes on
                steps[-1].command += f"\n{line[2:]}"
            else:
                steps[-1].shown.append(line)
    return steps, re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)


def plain(line: str) -> str:
    """Without what differs from run to run and from machine to machine: numbers, digests, times, widths."""
    line = re.sub(r"\x1b\[[0-9;]*m|[├└│]?─{2,}", "", line)
    line = re.sub(r"\d+:\d+ [AP]M|[A-Z][a-z]{2} \d{2}, \d{4}|\b[0-9a-f]{7}\b", "#", line)
    line = re.sub(r"(?<![\w-])-?\d+(\.\d+)?(e-?\d+)?\b", "#", line)
    return " ".join(line.split())


def missing(step: Step) -> str | None:
    """The first line shown that was not printed after those before it; `...` is any text, or any lines."""
    printed = iter([plain(line) for line in re.split(r"[\r\n]+", step.output)])
    for line in step.shown:
        pattern = re.escape(plain(line)).replace(re.escape("..."), ".*")
        if line != "..." and not any(re.fullmatch(pattern, other) for other in printed):
            return line
    return None


def test_text_names_only_commands_that_are_run() -> None:
    """A command in the text is the beginning of one in a fence, or .ci/run runs it."""
    steps, text = read(PAGE)
    for command in re.findall(r"`((?:dvc|git|make|python|bash) [^`]+)`", text):
        in_ci = re.search(rf"^{command}$", (ROOT / ".ci/run").read_text(), re.M)
        assert in_ci or any(step.command.startswith(command) for step in steps), command


def test_files_and_links_of_the_page_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"`((?:\.github|\.ci|tests|presets|docs)/[^` ]+)`", PAGE):
        assert (ROOT / name).is_file(), name


def test_what_is_shown_is_compared() -> None:
    assert missing(Step("", ["a 3", "...", "b .../x"], "a 1\nc\nb /tmp/x\n")) is None
    assert missing(Step("", ["b", "a"], "a\nb\n")) == "a"
    assert missing(Step("", ["Data are up to date."], "Running stage 'fetch':\n")) == "Data are up to date."


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Step], Path]:
    """All commands run in one shell, up to the first whose exit status is not what it should be."""
    home = tmp_path_factory.mktemp("walk")
    source = copy_project(home / "source")
    call(home, "git", "clone", "-q", "--bare", str(source), str(home / "origin.git"))

    tools = Path(sys.executable).parent
    substitutes = {  # what would need the network, for what does the same here
        "<url>": str(home / "origin.git"),
        "make setup": f"mkdir -p .venv/bin && echo 'export PATH={tools}:$PATH' > .venv/bin/activate",
    }
    identity = {f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **identity, "GITHUB_STEP_SUMMARY": str(home / "summary.md")}
    shell = subprocess.Popen(
        ["bash"], cwd=home, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    steps, _ = read(PAGE)
    used = set()
    for step in steps:
        command = step.command
        for words, other in substitutes.items():
            used |= {words} if words in command else set()
            command = command.replace(words, other)
        start = time.monotonic()
        shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' {END} $?\n")
        shell.stdin.flush()
        lines = []
        while not (line := shell.stdout.readline()).startswith(END):
            assert line, f"the shell ended in: {step.command}"
            lines.append(line)
        step.output, step.seconds = "".join(lines).removesuffix("\n"), time.monotonic() - start
        assert (int(line.split()[1]) != 0) == (step.command in FAILS), f"{step.command}\n{step.output}"
    shell.stdin.close()
    assert shell.wait(timeout=60) == 0
    assert used == set(substitutes)
    return steps, home


@pytest.mark.slow
def test_what_is_shown_is_seen(walked: tuple[list[Step], Path]) -> None:
    steps, _ = walked
    for step in steps:
        print(f"{step.seconds:6.1f} s  $ {step.command}")
    absent = {step.command: (line, step.output) for step in steps if (line := missing(step)) is not None}
    assert not absent
    for step in steps:
        if step.command in EXACT:
            assert step.output.split() == " ".join(step.shown).split(), step


@pytest.mark.slow
def test_only_the_stages_that_should_run_do(walked: tuple[list[Step], Path]) -> None:
    steps, _ = walked
    first = next(step for step in steps if step.command == "dvc repro")
    assert ran(first.output) >= {"fetch", "decode"} | EXPERIMENT
    for step in steps:
        if step is not first:
            assert ran(step.output) == (RUNS.get(step.command) or set()), step.command


@pytest.mark.slow
def test_differences_are_those_of_the_change(walked: tuple[list[Step], Path]) -> None:
    steps, home = walked
    printed = {step.command: step.output for step in steps}
    difference = printed["dvc metrics diff"]
    assert set(re.findall(r"metrics/\w+\.json", difference)) == {
        "metrics/one_frame.json",
        "metrics/one_frame_moving.json",
        "metrics/train_one_frame.json",
    }
    assert printed["dvc params diff"].count("params.yaml") == 1
    table = (home / "summary.md").read_text()
    assert "| metrics/one_frame_moving.json | psnr |" in re.sub(" +", " ", table)
    assert "| params.yaml | train.one_frame.optimizer.lr |" in re.sub(" +", " ", table)
    assert "metrics/lvln.json" not in table
    assert len(table.splitlines()) < 30
    assert all(len(line.rstrip()) <= 160 for line in printed["dvc metrics show"].splitlines())


@pytest.mark.slow
def test_pulled_and_reproduced_models_are_the_same_bytes(walked: tuple[list[Step], Path]) -> None:
    _, home = walked
    for name in ("models/one_frame.safetensors", "plots/evaluate/one_frame/predictions.png", "data/manifest.csv"):
        assert (home / "colleague" / name).read_bytes() == (home / "alone" / name).read_bytes()
    assert call(home / "video-ladder", "git", "status", "--short", "--", "pipeline", "stages", "dvc.yaml") == ""


@pytest.mark.slow
def test_the_pages_have_charts_and_pictures(walked: tuple[list[Step], Path]) -> None:
    _, home = walked
    for page, revisions in (("dvc_plots", {"rate-1", "rate-2"}), ("report/plots", {"HEAD", "workspace"})):
        folder = home / "video-ladder" / page
        html = (folder / "index.html").read_text()
        specs = [
            json.JSONDecoder().raw_decode(html, start.end())[0] for start in re.finditer(r"var spec = (?=\{)", html)
        ]
        titles = {spec["title"]["text"] for spec in specs}
        assert {"Prediction on the test split", "Probe on the test split", "one_frame: all other metrics"} <= titles
        assert all(titles), "a chart without a title"
        assert all({row["rev"] for row in spec["data"]["values"]} == revisions for spec in specs)
        for revision in revisions:
            for kind in ("png", "gif"):
                name = f"static/{revision}_plots_evaluate_one_frame_predictions.{kind}"
                assert name in html
                assert (folder / name).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("changes", ["", "train.one_frame.seed", "--queue", "a=1;touch pwned", "a=$(touch pwned)"])
def test_an_experiment_in_ci_refuses_what_is_not_a_change(walked: tuple[list[Step], Path], changes: str) -> None:
    _, home = walked
    folder = home / "colleague"
    before = (folder / "params.yaml").read_bytes()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ".ci/experiment"],
        cwd=folder,
        env={**env, "PRESET": "params.yaml", "CHANGES": changes},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert "CHANGES: " in done.stdout
    assert not (folder / "pwned").exists()
    assert (folder / "params.yaml").read_bytes() == before
