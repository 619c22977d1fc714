"""What is committed in metrics/ and plots/, which a reproduction on another machine, or of a preset, overwrites."""

import subprocess

import pytest

from tests.support.import_closure import ROOT

_changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "metrics", "plots", "docs"], cwd=ROOT).returncode
of_committed_figures = pytest.mark.skipif(_changed != 0, reason="metrics/, plots/ or docs/ differ from the last commit")
