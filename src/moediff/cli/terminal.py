"""Progress bar of commands on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar with time left on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda share, word: bar.update(task, completed=share, description=word)
