"""Safetensors files: whole, readable as the umask says, and with our errors."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moediff.core.errors import OutputFailed
from moediff.io.atomic import remove_leftovers
from moediff.io.tensors import save_tensors


def test_tensors_come_back_with_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_tensors({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "w.safetensors")
    finally:
        os.umask(before)
    assert torch.equal(load_file(tmp_path / "w.safetensors")["a"], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.fault(46)
def test_what_a_killed_save_left_is_found_by_its_name(tmp_path, monkeypatch):
    """safetensors writes under a name of its own, which nothing would ever remove."""
    path, left = tmp_path / "w.safetensors", []

    def looked_at(tensors: object, target: Path, metadata: object) -> None:
        target.with_name(".tmp123").write_bytes(b"half")
        left.append([file.name for file in tmp_path.rglob(".tmp*")])
        remove_leftovers(path)
        left.append(list(tmp_path.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", looked_at)
    with pytest.raises(KeyboardInterrupt):
        save_tensors({"a": torch.zeros(2)}, path)
    assert left == [[".tmp123"], []]


@pytest.mark.fault(45)
def test_a_full_disk_is_named_and_leaves_the_older_file(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, before[1]))
    try:
        with pytest.raises(OutputFailed, match="free some space"):
            save_tensors({"a": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
