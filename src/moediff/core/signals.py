"""Signals (Ctrl-C, SIGTERM, a closed terminal): handlers that end the program with one line and code 128 + the signal.

This module imports almost nothing, because a signal may come while everything else is being imported.
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
REPEAT_S = 2.0  # a second Ctrl-C this soon would only disturb the clean-up
RESEND_S = 0.05
REMINDER_S = 5.0  # work that goes on this long after a signal has lost the exception: some C code clears them

_received: list[tuple[int, float]] = []  # signals, and when they came


class Interrupted(KeyboardInterrupt):
    """SIGINT. Not KeyboardInterrupt itself: where that passes through exec or eval of a text, as in dataclasses during
    an import, Python ends the process by the signal although it was caught afterwards (CPython, `run_eval_code_obj`).
    """


class Terminated(SystemExit):
    """Any of the others."""


def install_handlers() -> None:
    """From now on signals raise; one that the caller ignores (nohup, a shell's background job) stays ignored."""
    _received.clear()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _reraise)
    sys.unraisablehook = _unraisable


def ignore_signals() -> None:
    """At the end of the program, when nothing is left to be stopped."""
    _set_reminder(0)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_reminder() -> None:
    """The signal has arrived: whoever cleans up for long, or waits for others, must not hear of it again."""
    _set_reminder(0)


def restart_reminder() -> None:
    """After `stop_reminder`, where there was a signal."""
    if _received:
        _set_reminder(REMINDER_S)


def first_signal() -> int | None:
    """The first signal that was received, None without one."""
    return _received[0][0] if _received else None


def message(number: int) -> str:
    """The line that a stopped program prints."""
    return f"moediff: {SIGNALS.get(number, 'stopped')}; nothing partial was left"


def _handle(number: int, _stack: object) -> None:
    now = time.monotonic()
    if _received and now - _received[-1][1] < REPEAT_S:
        return
    _received.append((number, now))
    _raise(number)


def _raise(number: int) -> None:
    _set_reminder(REMINDER_S)
    if number == signal.SIGINT:
        raise Interrupted
    raise Terminated(128 + number)


def _set_reminder(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _reraise(number: int, _stack: object) -> None:
    if _received:
        _raise(_received[0][0])


def _unraisable(caught: sys.UnraisableHookArgs) -> None:
    """An exception in a destructor or callback is printed and dropped, so the signal is sent again."""
    if not isinstance(caught.exc_value, Interrupted | Terminated):
        sys.__unraisablehook__(caught)
        return
    import threading

    number, _ = _received.pop()
    again = threading.Timer(RESEND_S, _signal_main_thread, [number])
    again.daemon = True
    again.start()


def _signal_main_thread(number: int) -> None:
    """Send a signal where handlers run, so that whatever waits there (a sleep, a read) is interrupted at once."""
    import threading

    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
