"""The states that a training leaves behind, from which it continues after an interruption."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from pipeline.training.interruption import Stop
from pipeline.training.state import load_state, save_state

STATE = "state.pt"  # in the run folder; the caller deletes it once the result is written


class Checkpoints:
    """The states that a training leaves in its run folder: STATE, from which it continues after an interruption, and
    one for each finished phase, with which a run begins that shares that much with an earlier one.

    fingerprints: of the files, by name, in the order in which they are tried. minutes: between saves of STATE. With
    several ranks the first one writes, and all must see the folder.
    """

    def __init__(
        self, fabric: Fabric, run: Path, fingerprints: Mapping[str, str], *, minutes: float, stop: Stop
    ) -> None:
        self.fabric, self.run, self.fingerprints = fabric, run, fingerprints
        self.minutes, self.stop = minutes, stop
        self.saved_at = time.monotonic()
        self.stop_flag = self.save_flag = False  # what all ranks have agreed on
        self.has_state = False  # STATE is of this run

    def load(self) -> dict[str, Any] | None:
        """The first state that belongs to this run; None when there is none."""
        for name, expected in self.fingerprints.items():
            path = self.run / name
            if found := load_state(path, expected):
                self.has_state = name == STATE
                self.fabric.print(f"continuing at step {found['progress']['step']} from {path}")
                return found
            if name == STATE and path.exists():
                self.fabric.print(f"{path}: params, data or code have changed since it was saved; it is not used")
        return None

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        if self.fabric.is_global_zero:
            save_state(self.run / name, {"fingerprint": self.fingerprints[name], **state})
        self.saved_at, self.save_flag, self.has_state = time.monotonic(), False, True

    def flags(self) -> list[float]:
        """[1 if this rank is asked to stop, 1 if it is time to save], else 0."""
        return [float(bool(self.stop.signals)), float(time.monotonic() - self.saved_at > 60 * self.minutes)]

    def raise_flags(self, stop: float, save: float) -> None:
        """stop, save: `flags`, over all ranks."""
        self.stop_flag |= stop > 0
        self.save_flag |= save > 0

    def __str__(self) -> str:
        return f"the last good state is kept in {self.run / STATE}" if self.has_state else "no state had been saved yet"
