"""Methods of a benchmark: interpolation, total variation, our bundles, and anyone's command."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moediff.benchmark.records import Identity
from moediff.core.errors import ConfigError, prefix_errors, printable
from moediff.inference.options import MODES
from moediff.model.bundle import embedded_path, read_manifest

INTERPOLATIONS = ("linear", "cubic", "lanczos", "zero-fill")
BASELINES = ("cubic", "zero-fill")  # gains count from the better of the two
BUILT_IN = (*INTERPOLATIONS, "tv", *MODES)
UNIFORM = "uniform"  # one denoiser for everything; none is shipped
INPUT, OUTPUT = "{input}", "{output}"
MARKS = re.compile(f"{re.escape(INPUT)}|{re.escape(OUTPUT)}")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method.

    Args:
        name: in tables; any text.
        kind: "interpolation", "tv", "bundle" or "command".
        mode: of a bundle, "faithful" or "detail".
        bundle: model folder; None is the embedded one.
        bundle_sha256: of its weights and settings together.
        command: words of an external command, with {input} and {output}; no shell reads them.
    """

    name: str
    kind: str
    mode: str = ""
    bundle: Path | None = None
    bundle_sha256: str = ""
    command: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        """What its results depend on; folders are named by their content, so a moved bundle is the same method."""
        return Identity(
            name=self.name,
            kind=self.kind,
            mode=self.mode,
            bundle_sha256=self.bundle_sha256,
            command=self.command,
        )

    def words(self, source: Path, target: Path) -> list[str]:
        """The command with its files in place."""
        files = {INPUT: str(source), OUTPUT: str(target)}
        return [MARKS.sub(lambda mark: files[mark[0]], word) for word in self.command]


def parse_methods(specs: Sequence[str]) -> list[Method]:
    """Methods as named on the command line: a name from `BUILT_IN`, NAME=FOLDER, or NAME=COMMAND.

    Cubic and zero-fill are added where they are missing, because gains count from them.

    Raises:
        ConfigError: an unknown or repeated name, or a command that lacks {input} or {output}.
        BundleError: no bundle in the folder.
    """
    methods = [_parse(spec) for spec in specs]
    names = [method.name for method in methods]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"two methods are called {twice[0]!r}; give each a name of its own")
    return [_parse(name) for name in BASELINES if name not in names] + methods


def _parse(spec: str) -> Method:
    name, given, value = spec.partition("=")
    if not given:
        return _built_in(name)
    if not name.strip() or name in BUILT_IN:
        raise ConfigError(f"method {spec!r}: expected NAME=FOLDER or NAME=COMMAND with a name that is not built in")
    if INPUT in value or OUTPUT in value:
        return Method(name=name, kind="command", command=_words(name, value))
    return Method(name=name, kind="bundle", mode="faithful", bundle=Path(value), bundle_sha256=_digest(Path(value)))


def _built_in(name: str) -> Method:
    if name in INTERPOLATIONS:
        return Method(name=name, kind="interpolation")
    if name == "tv":
        return Method(name=name, kind="tv")
    if name in MODES:
        return Method(name=name, kind="bundle", mode=name, bundle_sha256=_digest(embedded_path()))
    if name == UNIFORM:
        raise ConfigError(f"no {UNIFORM} denoiser is shipped: train one, and name its bundle as {UNIFORM}=FOLDER")
    raise ConfigError(
        f"no method called {name!r}; choose from {', '.join(BUILT_IN)}, NAME=BUNDLE_FOLDER, "
        f"or NAME='command {INPUT} {OUTPUT}'"
    )


def _words(name: str, template: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(template))
    except ValueError as error:
        raise ConfigError(f"method {name!r}: the command cannot be split into words ({error})") from error
    missing = [mark for mark in (INPUT, OUTPUT) if not any(mark in word for word in words)]
    if missing:
        raise ConfigError(f"method {name!r}: the command has no {missing[0]}; expected 'command {INPUT} {OUTPUT}'")
    return words


def _digest(folder: Path) -> str:
    """Of settings and weights; as it is because it is in stored results."""
    with prefix_errors(printable(folder)):
        manifest = read_manifest(folder)
    text = json.dumps([manifest["config"], manifest["sha256"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
