"""Commands, one module each: `add` declares the options; what it calls imports heavy parts when it runs."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

SOME_FAILED = 8  # exit code where some of many inputs failed; each failure is printed
