"""The allocator's settings: changed by the first that asks, given back after the last."""

from __future__ import annotations

import pytest

from moediff.core import memory
from moediff.core.errors import ConfigError
from moediff.inference.enhancer import Enhancer


@pytest.fixture
def settings(monkeypatch):
    """What the allocator was set to, in order: True keeps freed blocks."""
    calls: list[bool] = []
    monkeypatch.setattr(memory, "_ALLOCATOR", memory._Allocator())
    monkeypatch.setattr(memory, "_set_allocator", lambda *, keep: calls.append(keep))
    return calls


def test_memory_is_reused_meanwhile_and_given_back_after_the_last(settings):
    with memory.reused_memory():
        with memory.reused_memory():
            assert settings == [True]
        assert settings == [True]
    assert settings == [True, False]


def test_memory_is_given_back_after_an_error(settings):
    with pytest.raises(ValueError, match="any"), memory.reused_memory():
        raise ValueError("any")
    assert settings == [True, False]


def test_a_program_keeps_it_for_good(settings):
    memory.tune_allocator()
    with memory.reused_memory():
        pass
    assert settings == [True]


def test_another_c_library_is_no_fault(monkeypatch):
    import ctypes

    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    memory._set_allocator(keep=True)
    memory._set_allocator(keep=False)


def test_an_enhancer_reuses_memory_and_gives_it_back(settings):
    with pytest.raises(ConfigError):
        Enhancer()([])
    assert settings == [True, False]
