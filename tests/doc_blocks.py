"""Code blocks of the documentation: found, checked against the parser, and run as they are printed.

A block is run unless the line before it is a comment that says why not:

    <!-- not run: needs a network -->        never run by a test; its options are checked all the same
    <!-- slow: trains for a minute -->       run with `pytest -m slow` only

Blocks of one page run in order in one folder that holds the scans of `scripts/example_scans.py`. Commands and Python
run in forks of one server that has imported everything, since most of a short command's time is `import torch`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>not run|slow): (?P<reason>[^\n]+?) -->\n(?:\s*\n)?)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^ *```$",
    re.M | re.S,
)
SHELL, PYTHON = ("", "bash"), ("python",)
REDIRECTION = re.compile(r"\s(?:\d?>|\|\||&&|\||;|<)\s?|\)\s*$")
TIMEOUT_S = 3600  # of one block; slow ones train, perhaps beside other work
SHIM = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({socket!r})
words = json.dumps({{"kind": {kind!r}, "words": sys.argv[1:], "folder": os.getcwd()}}).encode()
socket.send_fds(server, [words], [0, 1, 2])
sys.exit(int(server.recv(16) or b"70"))
"""


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, first line, language, text, and why it is not run, if so."""

    page: str
    line: int
    language: str
    text: str
    mark: str = ""  # "", "not run" or "slow"
    reason: str = ""

    @property
    def shell(self) -> bool:
        return self.language in SHELL


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page=page.name,
            line=text.count("\n", 0, match.start("indent")) + 1,
            language=match["language"],
            text=textwrap.dedent(match["text"]),
            mark=match["mark"] or "",
            reason=match["reason"] or "",
        )
        for match in FENCE.finditer(text)
    ]


def commands_of(block: Block) -> Iterator[list[str]]:
    """Words of every `moediff ...` in a shell block, without redirections and what is piped to."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for start in re.finditer(r"(?<![\w./'\"`-])moediff(?= )", line):
            if "#" in line[: start.start()]:
                continue
            words = _words(line[start.start() :])
            yield ["1" if "$" in word else word for word in words[1:]]


def _words(text: str) -> list[str]:
    """Words of one command: up to a redirection, a pipe or the next command."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    lexer.wordchars += "[]{}$@!%^:,+"
    words = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        words.append(word)
    return words


class DocServer:
    """Runs blocks; `close` ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self.shims = folder / "bin"
        self.shims.mkdir(parents=True)
        for name in ("moediff", "python"):
            shim = self.shims / name
            shim.write_text(SHIM.format(python=sys.executable, socket=str(self.socket), kind=name), encoding="utf-8")
            shim.chmod(0o755)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.socket)], env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def run(self, block: Block, folder: Path) -> tuple[int, str]:
        """Exit code of a block, and all that it printed."""
        call = ["bash", "-euo", "pipefail", "-c", block.text] if block.shell else ["python", "-c", block.text]
        environment = os.environ | {"PATH": f"{self.shims}:{os.environ['PATH']}", "COLUMNS": "100"}
        done = subprocess.run(
            call,
            cwd=folder,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        return done.returncode, done.stdout

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


def serve(path: str) -> None:
    """Import everything once, then fork for every request."""
    import torch

    import moediff.cli.main
    import moediff.evaluation.evaluate
    import moediff.inference.run
    import moediff.report.page  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Torch makes its pool of threads anew after a fork, at first use; two threads that use it first at the same
            # time fail with "Invalid thread pool!", so it is made here.
            torch.set_num_threads(1)
            _answer(client)
        client.close()


def _answer(client: socket.socket) -> None:
    """In a fork: do what was asked, with the client's streams and folder, and end."""
    message, handles, _, _ = socket.recv_fds(client, 1 << 20, 3)
    request = json.loads(message)
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    os.chdir(request["folder"])
    code = 70
    try:
        code = _call(request["kind"], request["words"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(str(code).encode())
        os._exit(0)


def _call(kind: str, words: list[str]) -> int:
    if kind == "moediff":
        from moediff.cli.main import main

        return main(words)
    sys.argv = words
    if words[0] == "-c":
        exec(compile(words[1], "block", "exec"), {"__name__": "__main__"})
    else:
        import runpy

        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
