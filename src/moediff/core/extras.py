"""What pages are made with and weights learn with, and the words where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from moediff.core.errors import ConfigError

TRAINING_MODULES = "accelerate", "tensorboard"  # what training needs


def require_modules(*names: str, what: str = "the page", extra: str = "report") -> None:
    """Refuse before any long work what would be missing later on.

    Args:
        names: of modules.
        what: needs them.
        extra: of the package that brings them.

    Raises:
        ConfigError: one of the modules is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{what} needs {' and '.join(missing)}; install with: pip install 'moediff-sr[{extra}]'")
