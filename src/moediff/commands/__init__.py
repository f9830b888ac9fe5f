"""One module per command: `add` declares its options, and what it calls imports heavy parts when it runs."""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
