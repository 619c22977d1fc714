"""A network's step as torch.export programs: the computation alone, to be run without this project's code."""

import torch
from torch.export import Dim, ExportedProgram, export
from torch.utils._pytree import tree_map

from pipeline.nets.ladder import Ladder


def export_step(net: Ladder, *, height: int, width: int) -> tuple[ExportedProgram, ExportedProgram]:
    """`net(frame)`, the first step, and `net(frame, states)`, every later one, each as a program for any batch size.

    Both take a frame (B, 3, height, width) in [0, 1] and return the prediction of the next one, same shape, near [0, 1]
    but not clipped, and the states; height and width are those of the net, which is exported in eval mode, on its
    device. `torch.export.save(program, file)` and `torch.export.load(file).module()` take a program elsewhere.
    RuntimeError if a program's outputs are not the network's, at the batch size that it was made with and at another.
    """
    net.eval()
    device = next(net.parameters()).device
    batch = {0: Dim("batch")}
    with torch.no_grad():
        frames = torch.rand(3, 3, height, width, device=device)
        states = net(frames)[1]
        first = export(net, (frames[:2],), dynamic_shapes=(batch,))
        later = tree_map(lambda state: state[:2], states)
        following = export(net, (frames[:2], later), dynamic_shapes=(batch, tree_map(lambda _: batch, later)))
        for program, inputs in ((first, (frames,)), (following, (frames, states))):
            for size in (1, 2, 3):
                some = tree_map(lambda tensor, size=size: tensor[:size], inputs)
                try:
                    torch.testing.assert_close(program.module()(*some), net(*some), rtol=1e-5, atol=1e-5)
                except AssertionError as error:
                    raise RuntimeError(
                        f"the exported step differs from the network's, batch {size}: {error}"
                    ) from error
    return first, following
