"""How long the stages take on machines whose speed at each kind of work (work.py) was measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.cost.work import Work


@dataclass(frozen=True)
class Machine:
    """rates: of each kind of work, its unit a second; a kind that is absent was not measured."""

    name: str
    rates: Mapping[str, float]

    def hours(self, work: Work) -> float | None:
        """None where a rate is missing."""
        if any(kind not in self.rates for kind in work.amounts):
            return None
        return sum(amount / self.rates[kind] for kind, amount in work.amounts.items()) / 3600


# An AMD EPYC, torch 2.11.0, numpy 2.4.6: `python -m benchmarks.cost ucf101`, the rate of a core twice over (bf16 in
# training). Decoding: benchmarks/README.md, full size.
TWO_CORES = Machine(
    "two CPU cores",
    {
        "decode": 3_885,
        "train lvln": 2 * 193e9,
        "train one_frame": 2 * 176e9,
        "train full_res": 2 * 179e9,
        "train lvln_match": 2 * 176e9,
        "train lvln_warp": 2 * 193e9,
        "predict": 2 * 92.6e9,
        "measure": 2 * 1.80e6,
        "flow": 2 * 111,
        "features": 2 * 45.0e9,
        "heads": 2 * 78.7e9,
    },
)
# Of one H100 with 80 GB, bf16, batches of 16: benchmarks/README.md, on a GPU, CUDA graphs. Nothing else was measured.
H100 = Machine(
    "one H100",
    {
        "train lvln": 159e12,  # 47.0 ms a step at 128×160, cuDNN's algorithms timed
        "train one_frame": 56.9e12,  # 30.3 ms at 64×96
        "train lvln_match": 80.2e12,  # 138 ms at 128×160
        "train lvln_warp": 63.2e12,  # 142 to 162 ms at 128×160
    },
)
MACHINES = (TWO_CORES, H100)
