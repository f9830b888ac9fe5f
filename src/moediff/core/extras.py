"""Extras: optional packages that some commands need, and the error where one is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from moediff.core.errors import ConfigError

TRAINING_MODULES = ("tensorboard",)


def require_modules(*names: str, what: str = "the page", extra: str = "report") -> None:
    """Check before any long work that optional modules are installed.

    Args:
        names: the modules.
        what: what needs them, for the message.
        extra: the extra of this package that installs them.

    Raises:
        ConfigError: one of the modules is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {' and '.join(missing)}; install with: pip install 'moediff-sr[{extra}]'")
