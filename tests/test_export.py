"""The step as a torch.export program gives what the network gives."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from pipeline.nets.build import build_net
from pipeline.nets.ladder import Ladder
from pipeline.predict.export import export_step
from pipeline.settings import read_params
from tests.support.import_closure import ROOT
from tests.support.nets import VARIANTS

HEIGHT, WIDTH = 32, 64


def small_net(name: str) -> Ladder:
    """The model of params.yaml, narrow, with weights and batch-norm statistics unlike the initial ones."""
    settings = read_params(ROOT / "params.yaml")["train"][name]["net"] | {"width": 8}
    net = build_net(name, settings, height=HEIGHT, width=WIDTH)
    if name in ("lvln_match", "lvln_warp"):  # the end of the head is zero at first, which would hide the decoder
        torch.nn.init.normal_(net.head[-1].weight, std=0.1)
    net.train()(torch.rand(4, 3, HEIGHT, WIDTH))
    return net.eval().requires_grad_(False)


FAST = "lvln"


@pytest.mark.parametrize(
    "name", [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_the_exported_step_is_the_step(name: str, tmp_path: Path) -> None:
    """Saved, loaded, and called with its own outputs, as a user does; for batches that it was not made with."""
    net = small_net(name)
    for file, program in zip(("first.pt2", "next.pt2"), export_step(net, height=HEIGHT, width=WIDTH), strict=True):
        torch.export.save(program, tmp_path / file)
    first, following = (torch.export.load(tmp_path / file).module() for file in ("first.pt2", "next.pt2"))
    for batch in (1, 5):
        frames = torch.rand(3, batch, 3, HEIGHT, WIDTH)
        expected, got = net(frames[0]), first(frames[0])
        assert_close(got, expected, rtol=1e-5, atol=1e-5)
        for frame in frames[1:]:
            expected, got = net(frame, expected[1]), following(frame, got[1])
            assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_program_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would whose step depends on more than its arguments."""
    net = small_net("lvln")
    calls = []
    own = net.decode
    monkeypatch.setattr(net, "decode", lambda *inputs: (calls.append(0), own(*inputs) + len(calls))[1])
    with pytest.raises(RuntimeError, match="differs from the network's, batch 1"):
        export_step(net, height=HEIGHT, width=WIDTH)
