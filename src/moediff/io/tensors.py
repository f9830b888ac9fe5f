"""Safetensors files of weights and training data: written whole, so that a half-written one is never found."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from moediff.io.atomic import HIDDEN, name_hash, whole_file

WRITTEN = "tensors"


def _hidden_folder(path: Path) -> TemporaryDirectory[str]:
    """A folder for what safetensors writes under names of its own, which `remove_leftovers` finds after a kill."""
    return TemporaryDirectory(".tmp", f"{HIDDEN}{name_hash(path)}-", path.parent, ignore_cleanup_errors=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, replacing an older file.

    Raises:
        CannotCreate: the folder is missing or closed to us.
        OutputFailed: the disk is full or failed; the older file is still there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path, overwrite=True) as hidden, _hidden_folder(path) as folder:
        try:
            save_file(on_cpu, Path(folder, WRITTEN), metadata=metadata)
            os.replace(Path(folder, WRITTEN), hidden)
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            number = int(code[1])
            raise OSError(number, os.strerror(number)) from error
