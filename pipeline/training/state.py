"""Files from which an interrupted run carries on, and whose they are."""

import hashlib
import os
import pickle
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.clips import Clips
from pipeline.nets.encoder import Encoder


def fingerprint(
    settings: object, data: Iterable[Clips], encoder: Encoder | None = None, *, code: Sequence[str] = ("pipeline",)
) -> str:
    """Digest of all that a run's result depends on: its settings, the stored frames, the frozen encoder's weights, if
    any, and the project's code. code: the packages and modules that count, of those that are loaded."""
    digest = hashlib.sha256(repr(settings).encode())
    for clips in data:
        for video in clips.videos:
            digest.update(repr((video.key, video.info)).encode())
    for tensor in encoder.state_dict().values() if encoder else ():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for name, module in sorted(sys.modules.items()):
        counts = any(f"{name}.".startswith(f"{part}.") for part in code)
        if counts and getattr(module, "__file__", None):
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
