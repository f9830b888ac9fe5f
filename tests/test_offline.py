"""Nothing contacts a network: with sockets and name look-ups blocked, every command works as ever."""

from __future__ import annotations

import ast
import socket
from pathlib import Path

import pytest

from moediff.cli.main import main
from moediff.io.scans import save

SOURCE = Path(__file__).resolve().parents[1] / "src" / "moediff"
NETWORK = {"socket", "http", "urllib.request", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "huggingface_hub"}

LOOPBACK = {SOURCE / "training" / "distributed.py"}  # training processes of one machine find each other
PAIRED = SOURCE / "cohort" / "local.py"  # a process and its worker hold the two ends of a pair of sockets
# Answers readers of a study; it listens where the user says (on this machine by default) and calls nobody.
SERVER = SOURCE / "study" / "server.py"


@pytest.fixture
def blocked(monkeypatch):
    """Any socket or look-up raises and is counted."""
    tried = []

    def refuse(*args: object, **options: object) -> None:
        tried.append(args)
        raise OSError("no network")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


@pytest.mark.fault(51)
def test_every_step_works_without_a_network(blocked, tmp_path, make_phantom, bundle):
    scan, low, out = (str(tmp_path / name) for name in ("a.nii.gz", "low.nii.gz", "out.nii.gz"))
    save(make_phantom(), scan)
    assert main(["degrade", scan, "--recipe", "thick3", "-o", low, "-q"]) == 0
    assert main(["enhance", low, "--like", scan, "-o", out, "--bundle", str(bundle), "-q"]) == 0
    assert main(["evaluate", "--pred", out, "--ref", scan, "--metrics", "psnr", "-q"]) == 0
    assert main(["report", out, "--input", low, "-q"]) == 0
    assert main(["bundle", "info"]) == 0
    assert blocked == []


def test_the_block_blocks(blocked):
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("localhost", 9))
    assert blocked


def _members(node: ast.ImportFrom) -> list[str]:
    return [f"{node.module}.{alias.name}" for alias in node.names]


@pytest.mark.fault(51)
def test_no_module_of_ours_can_reach_a_network():
    for file in set(SOURCE.rglob("*.py")) - LOOPBACK - {SERVER, PAIRED}:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "", *_members(node)] if isinstance(node, ast.ImportFrom) else []
            assert not ({name.partition(".")[0] for name in names} | set(names)) & NETWORK, file


@pytest.mark.fault(51)
def test_processes_of_one_machine_meet_on_the_loopback_interface_only():
    for file in LOOPBACK:
        calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        named = {call.func.attr: call for call in calls if isinstance(call.func, ast.Attribute)}
        assert not {"connect", "create_connection", "getaddrinfo", "listen", "sendto"} & set(named)
        assert ast.literal_eval(named["bind"].args[0]) == ("127.0.0.1", 0)
        assert file.read_text(encoding="utf-8").count('"127.0.0.1"') == 2  # where the port is found, and MASTER_ADDR


@pytest.mark.fault(51)
def test_the_study_server_listens_and_calls_nobody():
    tree = ast.parse(SERVER.read_text(encoding="utf-8"))
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported & NETWORK == {"socket"}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {call for call in calls if call.startswith("socket.")} == {"socket.create_server"}
    assert not any(
        call.endswith((".connect", ".sendto")) for call in calls if not call.startswith(("sqlite3.", "self."))
    )


@pytest.mark.fault(51)
def test_a_worker_is_reached_through_a_pair_of_sockets_only():
    tree = ast.parse(PAIRED.read_text(encoding="utf-8"))
    used = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "socket"
    }
    assert used <= {"socketpair", "socket"}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "socket.socketpair" in calls and "socket.socket" not in calls
