"""The state of a run that may be interrupted, and whose it is."""

import hashlib
import os
import pickle
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from pipeline.clips.clips import Clips
from pipeline.nets.encoder import Encoder
from pipeline.training.interruption import Stop

STATE = "state.pt"  # in the run folder; the caller deletes it once the result is written


def fingerprint(settings: object, data: Iterable[Clips], encoder: Encoder) -> str:
    """Digest of all that a run's result depends on: its settings, the stored frames, the frozen encoder's weights,
    and the project's code."""
    digest = hashlib.sha256(repr(settings).encode())
    for clips in data:
        for video in clips.videos:
            digest.update(repr((video.key, video.info)).encode())
    for tensor in encoder.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] == "pipeline" and getattr(module, "__file__", None):
            digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state so that a crash at any moment leaves the old file or the new one, whole."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        partial.unlink(missing_ok=True)
        raise OSError(f"the state cannot be written to {path}: {error}") from error


def load_state(path: Path, expected_fingerprint: str) -> dict[str, Any] | None:
    """The state, or None when there is none or it belongs to another run. ValueError when the file is damaged."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["fingerprint"]
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged ({reason}); delete it, and the run begins without it") from error
    return state if found == expected_fingerprint else None


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
