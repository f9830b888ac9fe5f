"""Checkpoint: what a run needs to go on exactly where it stopped, as one safetensors file; never a pickle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moediff.core.errors import ConfigError, printable
from moediff.io.atomic import remove_leftovers
from moediff.io.lock import output_lock
from moediff.io.tensors import save_tensors
from moediff.model.bundle import present_names
from moediff.model.denoiser import Denoiser
from moediff.training.provenance import Restart, Session

STATE = "state.safetensors"
FOLDER = "checkpoint"
OUTPUTS = ("bundle", "best", "losses.csv", "validation.csv")  # what a run replaces or adds to
BUSY = "another training runs in this folder: wait for it, or choose another `out`"
OTHER_NETWORK = (
    "{folder} holds a run of another network than [model] describes now; go on with its settings, or choose another "
    "`out`"
)


@dataclass
class State:
    """What a checkpoint holds: live weights, their average, the optimiser, the place in the schedule, the best gain."""

    denoiser: Denoiser
    average: Denoiser
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    restarts: tuple[Restart, ...] = ()
    sessions: tuple[Session, ...] = ()


def _named_moments(state: State) -> dict[str, Tensor]:
    moments = {}
    for name, parameter in state.denoiser.named_parameters():
        for key, value in state.optimiser.state.get(parameter, {}).items():
            moments[f"adam.{key}.{name}"] = torch.as_tensor(value).float()
    return moments


def claim(out: Path) -> None:
    """Make a run's folder; its checkpoint's, however empty, says that what lies beside it is the run's.

    Raises:
        ConfigError: something lies there that a run would replace, and no run has made it.
    """
    present = [name for name in OUTPUTS if (out / name).exists()]
    if present and not (out / FOLDER).is_dir():
        raise ConfigError(
            f"{printable(out)} holds {', '.join(present)} of no run there, which training would replace; "
            "choose another `out`"
        )
    (out / FOLDER).mkdir(parents=True, exist_ok=True)


@contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """A run's folder for us alone; of several processes that a launcher started, the first one holds it.

    Raises:
        TryAgain: another training runs there.
    """
    with ExitStack() as stack:
        if int(os.environ.get("RANK", 0)) == 0:
            out.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(output_lock([out], busy=BUSY))
        yield


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can go on from there: a save that was killed leaves a folder without its file."""
    return (folder / STATE).is_file()


def save_checkpoint(folder: Path, state: State) -> None:
    """Everything that the next step depends on, as one safetensors file, moved in whole."""
    remove_leftovers(folder / STATE)  # of a save that was killed
    tensors = {f"live.{k}": v for k, v in state.denoiser.state_dict().items()}
    tensors |= {f"mean.{k}": v for k, v in state.average.state_dict().items()} | _named_moments(state)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"step": str(state.step), "seconds": repr(state.seconds), "best": repr(state.best)}
    metadata["restarts"] = json.dumps([asdict(restart) for restart in state.restarts])
    metadata["sessions"] = json.dumps([asdict(session) for session in state.sessions])
    save_tensors(tensors, folder / STATE, metadata)


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """The safetensors file of a checkpoint.

    Raises:
        ConfigError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / STATE, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ConfigError(
            f"the checkpoint {printable(folder / STATE)} is damaged ({error}); delete it, and --resume goes "
            "on from the `bundle` beside it at the same place of the schedule"
        ) from error


def saved_place(folder: Path) -> tuple[int, tuple[Restart, ...]]:
    """The step that a checkpoint stands at, and the restarts before it.

    Raises:
        ConfigError: it is damaged.
    """
    with _opened(folder) as file:
        metadata = file.metadata()
    return int(metadata["step"]), _restarts(metadata)


def _restarts(metadata: Mapping[str, str]) -> tuple[Restart, ...]:
    return tuple(Restart(**restart) for restart in json.loads(metadata.get("restarts", "[]")))


def load_checkpoint(folder: Path, state: State) -> None:
    """Put a checkpoint back into a freshly built state.

    Raises:
        ConfigError: it is damaged, or of another network.
    """
    with _opened(folder) as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors = present_names(tensors)
    try:
        state.denoiser.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("live.")})
        state.average.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("mean.")})
    except RuntimeError as error:
        raise ConfigError(OTHER_NETWORK.format(folder=printable(folder.parent))) from error
    for name, parameter in state.denoiser.named_parameters():
        for key in ("momentum", "step", "exp_avg", "exp_avg_sq"):
            if (value := tensors.get(f"adam.{key}.{name}")) is not None:
                state.optimiser.state[parameter][key] = value if key == "step" else value.to(parameter.device)
    state.step, state.seconds = int(metadata["step"]), float(metadata["seconds"])
    state.best = float(metadata["best"])
    state.restarts = _restarts(metadata)
    state.sessions = tuple(Session(**session) for session in json.loads(metadata.get("sessions", "[]")))
