"""Preemption of a run: its slice of time is over, or a signal asked it to stop."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

from moediff.core.errors import ConfigError, TryAgain
from moediff.core.signals import Interrupted, Terminated
from moediff.training.distributed import agreed

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preemption:
    """While entered, SIGTERM and SIGINT wait for the end of a step; a second SIGINT does not.

    One that nobody has asked about is raised on leaving, when everything is done: the caller meant to stop.

    Args:
        minutes: length of the slice, counted from entering; None is without end.

    Raises:
        ConfigError: the slice is not positive.
        Interrupted, Terminated: on leaving, where a signal came; all processes of a run leave alike.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not minutes > 0:
            raise ConfigError(f"a slice of {minutes} minutes is none; give a positive number")
        self.minutes = math.inf if minutes is None else minutes
        self.until, self.received = math.inf, 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Preemption:
        self.until = time.monotonic() + 60 * self.minutes
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None and agreed(float(bool(self.received))) > 0:
            self._raise()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.received == number == signal.SIGINT:
            self._raise()
        self.received = number

    def due(self) -> bool:
        """Whether to stop now; all processes of a run hear the same."""
        return agreed(float(bool(self.received) or time.monotonic() >= self.until)) > 0

    def stop(self, reached: str) -> NoReturn:
        """End this call, all processes together, once everything is saved.

        Raises:
            Interrupted, Terminated: a signal asked for it.
            TryAgain: the slice is over.
        """
        agreed(0.0)  # one process still saves; the others wait for it
        if self.received:
            self._raise()
        raise TryAgain(f"paused at {reached}; go on with --resume")

    def _raise(self) -> NoReturn:
        """As the signal would have, or SIGTERM where another process got it."""
        number, self.received = self.received or signal.SIGTERM, 0  # raised once
        if number == signal.SIGINT:
            raise Interrupted
        raise Terminated(128 + number)
