"""A server killed by SIGKILL loses no answer: 30 of 30."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from moediff.study.answers import AnswerStore

pytest.importorskip("uvicorn")
ROOT = Path(__file__).resolve().parents[2]


class Served:
    """A real server process."""

    def __init__(self, folder, port=0):
        command = [sys.executable, "-m", "moediff", "study", "serve", str(folder), "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("serving"):
                break

    def end(self, number):
        self.process.send_signal(number)
        self.process.wait(120)
        self.process.stdout.close()


def post(opener, address, sent, csrf):
    content = b"" if sent is None else json.dumps(sent).encode()
    request = urllib.request.Request(address, content, {"x-csrf": csrf}, method="POST")
    with opener.open(request, timeout=120) as response:
        return response.read()


def test_no_answer_is_lost_when_the_server_is_killed(new_study):
    made = new_study("--training", "0", "--repeats", "1", "--catches", "0.5", "--seed", "1")
    trials = len(made.study.readers["ann"])
    assert trials >= 30
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    server = Served(made.folder)
    address, word = re.search(r"ann\s+(http://127\.0\.0\.1:\d+)/start/(\S+)", "".join(server.lines)).groups()
    page = post(opener, f"{address}/start/{word}", None, "")
    csrf = re.search(rb'content="([0-9a-f]{64})"', page)[1].decode()
    for trial in range(1, 31):
        sent = {
            "trial": trial,
            "value": {"choice": ["left", "right"][trial % 2]},
            "seconds": 1,
            "ticket": f"ticket-{trial:04d}",
        }
        view = json.loads(post(opener, f"{address}/answer", sent, csrf))
        assert view["trial"] == trial + 1
        if trial in (7, 19, 30):
            server.end(signal.SIGKILL)
            with AnswerStore(made.folder, made.study) as store:
                assert store.done("ann") == trial
            server = Served(made.folder, port=int(address.rpartition(":")[2]))
            assert any("ann  has started" in line for line in server.lines)
            with opener.open(f"{address}/trial", timeout=120) as response:
                assert json.loads(response.read())["trial"] == trial + 1  # resumes in the same browser
    server.end(signal.SIGTERM)
    with AnswerStore(made.folder, made.study) as store:
        assert [one.value["choice"] for one in store.answers()] == [["left", "right"][t % 2] for t in range(1, 31)]
