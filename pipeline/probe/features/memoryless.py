"""Features that no memory made: the controls which a probe of hidden states has to beat.

`encoder`: the frozen encoder's own taps, averaged over space and the clip's frames (1,024 dimensions). `flow`: Lucas
and Kanade's optical flow of each pair of frames that follow each other, on tokens; nothing of it is learned.
`flow_pooled`: the same, summed up over space.

Shapes: N frames of all clips, H × W pixels, K tokens, P pairs of frames of the longest clip.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.nets.encoder import TAPS, Encoder
from pipeline.nets.flow import lucas_kanade
from pipeline.probe.features.states import Features, align, tokens


@torch.no_grad()
def encoder_features(encoder: Encoder, taps: Mapping[str, Tensor], lengths: Sequence[int]) -> Tensor:
    """Taps of N frames, clip after clip -> (clips, 1,024). lengths: frames of each clip."""
    deepest = {"layer4": encoder.deepest(taps["layer3"])}
    pooled = torch.cat([(taps | deepest)[name].mean((2, 3)) for name in TAPS], 1)
    return torch.stack([part.mean(0) for part in pooled.split(list(lengths))])


@torch.no_grad()
def flow_features(frames: Tensor, lengths: Sequence[int], *, grid: tuple[int, int], longest: int) -> Features:
    """Frames (N, 3, H, W) in [0, 1], clip after clip -> flow (clips, K, 2·P), in pixels, x first, of the first pair
    first; flow_pooled (clips, 8·P): of each pair the mean, the least and the greatest value and the mean size, over
    space, of x and y. A clip shorter than the longest has its last pairs, and 0 for the others."""
    clips = frames.split(list(lengths))
    now, before = (torch.cat([clip[part] for clip in clips]) for part in (slice(1, None), slice(None, -1)))
    pairs = [length - 1 for length in lengths]
    flow = lucas_kanade(now, before) if sum(pairs) else frames.new_zeros(0, 2, *frames.shape[2:])
    pooled = torch.cat([flow.mean((2, 3)), flow.amin((2, 3)), flow.amax((2, 3)), flow.abs().mean((2, 3))], 1)
    found = {}
    for name, values in {"flow": tokens(flow, grid), "flow_pooled": pooled}.items():
        like = values.new_zeros(values.shape[1:])
        found[name] = torch.stack([align(list(part), like, longest - 1) for part in values.split(pairs)])
    return found
