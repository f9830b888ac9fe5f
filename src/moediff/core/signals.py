"""Ctrl-C, SIGTERM and a closed terminal, from the program's first line to its last: one sentence, 128 + the signal.

This module imports next to nothing, because a signal may come while everything else is being imported.
"""

from __future__ import annotations

import signal
import sys
import time

SIGNALS = {
    number: word
    for name, word in (("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "the terminal was closed"))
    if (number := getattr(signal, name, None)) is not None
}
ONCE_S = 2.0  # a second Ctrl-C this soon is impatience, and would only disturb the cleaning up
AGAIN_S = 0.05
STILL_S = 5.0  # who still works this long after being stopped has lost the exception: C code clears some unseen

_asked: list[tuple[int, float]] = []  # signals that came, and when


class Interrupted(KeyboardInterrupt):
    """SIGINT. Not KeyboardInterrupt itself: where that passes through exec or eval of a text, as in dataclasses during
    an import, Python ends the process by the signal although it was caught afterwards (CPython, `run_eval_code_obj`).
    """


class Terminated(SystemExit):
    """Any of the others."""


def install_handlers() -> None:
    """Let the signals raise, from now on; one that the caller ignores (nohup, a shell's background job) stays so."""
    _asked.clear()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _still_here)
    sys.unraisablehook = _unraisable


def ignore_signals() -> None:
    """At the end, when nothing is left to be stopped."""
    _remind(0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def first_signal() -> int | None:
    """The signal that came first, if one came."""
    return _asked[0][0] if _asked else None


def message(number: int) -> str:
    """What a stopped program says."""
    return f"moediff: {SIGNALS.get(number, 'stopped')}; nothing partial was left"


def _stop(number: int, frame: object) -> None:
    now = time.monotonic()
    if _asked and now - _asked[-1][1] < ONCE_S:
        return
    _asked.append((number, now))
    _raise(number)


def _raise(number: int) -> None:
    _remind(STILL_S)
    if number == signal.SIGINT:
        raise Interrupted
    raise Terminated(128 + number)


def _remind(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _still_here(number: int, frame: object) -> None:
    if _asked:
        _raise(_asked[0][0])


def _unraisable(caught: sys.UnraisableHookArgs) -> None:
    """A signal that met a destructor or a callback would be printed and forgotten: it is sent once more."""
    if not isinstance(caught.exc_value, Interrupted | Terminated):
        sys.__unraisablehook__(caught)
        return
    import threading

    number, _ = _asked.pop()
    again = threading.Timer(AGAIN_S, signal.raise_signal, [number])
    again.daemon = True
    again.start()
