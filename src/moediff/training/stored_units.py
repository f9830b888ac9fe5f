"""Stored units of a stage that does not train: an interrupted one repeats one unit at most."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moediff.io.tensors import save_tensors
from moediff.training.calibrate import Unit
from moediff.training.log import Progress
from moediff.training.preemption import Preemption


@dataclass
class StoredUnits:
    """Units of a stage, each stored in a file with the seconds that it took.

    Args:
        folder: of the files.
        pause: checked after every unit.
        progress: updated after every unit.
        done: units so far.
        earlier: seconds that those of them took that were stored before.
    """

    folder: Path
    pause: Preemption
    progress: Progress
    done: int = 0
    earlier: float = 0.0

    def __call__(self, name: str, compute: Callable[[], Unit]) -> Unit:
        """The stored unit of this name, or else computed and stored."""
        path = self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"
        self.done += 1
        if path.is_file():
            return self._stored(path)
        begun = time.monotonic()
        unit = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(unit, path, {"seconds": f"{time.monotonic() - begun:.3f}"})
        self.progress.update(None, f"{self.done} units, {name}")
        if self.pause.due():
            self.pause.stop(f"{self.done} units")
        return unit

    def _stored(self, path: Path) -> Unit:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            self.earlier += float((file.metadata() or {}).get("seconds", 0.0))
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def heed_signals(self, reached: str) -> None:
        """Stop within work that is not stored where a signal came; the end of a slice waits, or it would never end."""
        if self.pause.received:
            self.pause.stop(reached)
