"""What pages are made with, and the words where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from moediff.errors import ConfigError


def require_parts(*names: str) -> None:
    """Refuse before any long work what a page would need after it.

    Raises:
        ConfigError: one of the modules is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the page needs {' and '.join(missing)}; install with: pip install 'moediff-sr[report]'")
