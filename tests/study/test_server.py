"""`moediff study serve`: links, blinding, answers in order, and what is refused."""

import re

import pytest

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from moediff.cli.main import main
from moediff.cli.study import _public_address
from moediff.core.errors import ConfigError
from moediff.study.answers import AnswerStore
from moediff.study.links import FailureLimit, csrf_word, new_link, waiting_link
from moediff.study.server import StudyServer, bind, links_to_send
from moediff.study.strengths import numpy_rng
from study.conftest import CASES, METHODS
from study.scripted import scripted_value

ORIGIN = "http://127.0.0.1"
PART = {"choice": "choice", "scores": "scores", "search": "marks"}


class Reader:
    """A browser of one reader; keeps everything that it received."""

    def __init__(self, server, word=None):
        self.client = TestClient(server.app(), base_url=ORIGIN, client=("10.0.0.1", 5))
        self.received = []
        if word:
            self.get(f"/start/{word}")
            assert self.post(f"/start/{word}", None).status_code == 200

    def keep(self, response):
        for one in (*response.history, response):
            self.received.append(b"\n".join([one.content, *(b"%s: %s" % pair for pair in one.headers.raw)]))
        return response

    def get(self, path):
        return self.keep(self.client.get(path))

    @property
    def csrf(self):
        return re.search('name="csrf" content="([0-9a-f]{64})"', self.get("/").text)[1]

    def post(self, path, sent, **headers):
        return self.keep(self.client.post(path, json=sent, headers=headers))

    def answer(self, trial, value, ticket="ticket-0001", csrf=None):
        sent = {"trial": trial, "value": value, "seconds": 1.5, "ticket": f"{ticket}-{trial}"}
        return self.post("/answer", sent, **{"x-csrf": csrf or self.csrf})


@pytest.fixture
def served(new_study):
    """A study of choices, its store and its server."""
    made = new_study("--seed", "5")
    with AnswerStore(made.folder, made.study) as store:
        yield made, store, StudyServer(made.folder, store)


@pytest.fixture
def ann(served):
    """Ann, who has opened her link."""
    _, store, server = served
    return Reader(server, new_link(store, "ann"))


def test_a_link_works_once_and_looking_at_it_uses_nothing_up(served):
    _, store, server = served
    word = new_link(store, "ann")
    preview = Reader(server)
    assert [preview.get(f"/start/{word}").status_code for _ in range(3)] == [200] * 3
    reader = Reader(server, word)
    assert reader.get("/trial").json()["trial"] == 1
    thief = Reader(server)
    assert thief.get(f"/start/{word}").status_code == 404 and thief.post(f"/start/{word}", None).status_code == 404
    assert thief.get("/trial").status_code == 403
    assert links_to_send(store, ())["ann"] is None
    assert links_to_send(store, ("ann",))["ann"] is not None
    assert reader.get("/trial").status_code == 403  # a new link ends the session before


def test_a_link_that_waits_stays_valid_when_the_server_starts_again(served):
    _, store, server = served
    words = links_to_send(store, ())
    assert all(words.values()) and links_to_send(store, ()) == {"ann": None, "bob": None}
    assert waiting_link(store, "bob") is not None
    assert links_to_send(store, ("bob",))["bob"] not in (None, words["bob"])
    reader = Reader(server, words["ann"])
    assert reader.get("/trial").json()["trial"] == 1 and waiting_link(store, "ann") is None


def test_a_link_opened_again_leads_back_to_the_session(served, ann):
    page = ann.client.get("/start/used-before", headers={"accept": "text/html"})
    assert page.status_code == 404 and '<a href="/">go on here</a>' in page.text and "[[" not in page.text
    ann.client.cookies.clear()
    assert 'href="/"' not in ann.client.get("/", headers={"accept": "text/html"}).text


def test_secrets_are_stored_as_hashes_only(served):
    made, store, server = served
    word = new_link(store, "ann")
    session = Reader(server, word).client.cookies["study"]
    store.connection.execute("PRAGMA wal_checkpoint")
    content = b"".join(file.read_bytes() for file in made.folder.glob("answers.sqlite*"))
    assert word.encode() not in content and session.encode() not in content


def test_nothing_served_unblinds(study_scans, new_study):
    """Both readers read everything; no body and no header names a method, a case, a file or a kind of trial."""
    made = new_study("--tasks", "choice", "scores", "search", "--seed", "5")
    with AnswerStore(made.folder, made.study) as store:
        server = StudyServer(made.folder, store)
        readers = {name: Reader(server, new_link(store, name)) for name in made.study.readers}
        for name, reader in readers.items():
            csrf = reader.csrf
            view = reader.get("/trial").json()
            while not view["finished"]:
                for panel in view["panels"]:
                    for index in range(view["slices"] if view["trial"] < 4 else 1):
                        assert reader.get(f"/image/{view['trial']}/{panel['name']}/{index}.png").status_code == 200
                value = scripted_value(made.key, name, view["trial"], (0, 0, 0), numpy_rng(0))
                view = reader.answer(view["trial"], {PART[view["task"]]: value[PART[view["task"]]]}, csrf=csrf).json()
            for path in ("/study.js", "/study.css", "/nothing", "/image/1/left/0.png", "/start/wrong"):
                reader.get(path)
        assert store.unfinished() == {}
    images = {image for case in made.key.cases for image in case.images.values()}
    words = [*METHODS, *CASES, *images, "sub-0", ".nii", "mirrored", "identical"]
    words += [made.study.key_sha256, made.study.name]
    words += [str(study_scans), str(made.folder), made.key.salt, '"repeat"', "uvicorn", "server:"]
    for reader in readers.values():
        assert len(reader.received) > 100
        for content in reader.received:
            assert not [word for word in words if word.lower().encode() in content.lower()]


def test_answers_are_stored_in_order_and_resent_ones_once(served, ann):
    _, store, server = served
    assert ann.answer(1, {"choice": "left"}).json()["trial"] == 2
    assert ann.answer(1, {"choice": "left"}).json()["trial"] == 2  # the same ticket again: the connection was lost
    stale = ann.answer(1, {"choice": "right"}, ticket="another-tab")
    assert stale.status_code == 409 and "another window" in stale.json()["message"]
    assert ann.answer(3, {"choice": "left"}).status_code == 409
    assert [(one.trial, one.value, one.seconds) for one in store.answers()] == [(1, {"choice": "left"}, 1.5)]
    assert ann.get("/image/1/left/0.png").status_code == 409  # pictures of the present trial only
    bob = Reader(server, new_link(store, "bob"))
    assert bob.get("/trial").json()["trial"] == 1


def test_two_tabs_of_one_reader_never_answer_one_trial_twice(served, ann):
    _, store, server = served
    tab = Reader(server)
    tab.client.cookies.set("study", ann.client.cookies["study"], domain="127.0.0.1")
    assert ann.get("/trial").json()["trial"] == tab.get("/trial").json()["trial"] == 1
    assert ann.answer(1, {"choice": "left"}).status_code == 200
    assert tab.answer(1, {"choice": "right"}, ticket="second-tab").status_code == 409
    assert tab.get("/trial").json()["trial"] == 2
    assert tab.answer(2, {"choice": "right"}, ticket="second-tab").status_code == 200
    assert [one.value["choice"] for one in store.answers()] == ["left", "right"]


def test_the_last_answer_can_be_taken_back_once(served, ann):
    csrf = {"x-csrf": ann.csrf}
    assert ann.get("/trial").json()["undo"] == 0
    for trial in (1, 2):
        view = ann.answer(trial, {"choice": "left"}).json()
    assert view["undo"] == 2
    assert ann.post("/undo", {"trial": 1}, **csrf).status_code == 409
    view = ann.post("/undo", {"trial": 2}, **csrf).json()
    assert view["trial"] == 2 and view["undo"] == 0
    assert ann.post("/undo", {"trial": 1}, **csrf).status_code == 409
    assert ann.answer(2, {"choice": "same"}, ticket="once-more").json()["undo"] == 2


def test_the_pause_between_sessions_is_shown_and_ends_undoing(new_study):
    made = new_study("--session-trials", "4", "--training", "0", "--washout-days", "9")
    with AnswerStore(made.folder, made.study) as store:
        ann = Reader(StudyServer(made.folder, store), new_link(store, "ann"))
        views = [ann.answer(trial, {"choice": "left"}).json() for trial in range(1, 6)]
    assert [view["pause_days"] for view in views] == [None, None, None, 9, None]
    assert [view["undo"] for view in views] == [1, 2, 3, 0, 5]


def test_other_sites_cannot_answer_for_a_reader(served, ann):
    _, store, server = served
    sent = {"trial": 1, "value": {"choice": "left"}, "seconds": 1, "ticket": "ticket-0001"}
    assert ann.post("/answer", sent).status_code == 403
    assert ann.post("/answer", sent, **{"x-csrf": "0" * 64}).status_code == 403
    assert ann.post("/answer", sent, **{"x-csrf": ann.csrf, "origin": "http://evil.example"}).status_code == 403
    assert ann.post("/answer", sent, **{"x-csrf": csrf_word("other"), "origin": ORIGIN}).status_code == 403
    assert ann.client.get("/trial", headers={"host": "evil.example"}).status_code == 400
    cookie = ann.client.cookies.jar
    (one,) = list(cookie)
    assert one.has_nonstandard_attr("HttpOnly") and one.get_nonstandard_attr("SameSite").lower() == "strict"
    word = new_link(store, "bob")
    behind_tls = TestClient(
        server.app(), base_url=ORIGIN, headers={"x-forwarded-proto": "https"}, follow_redirects=False
    )
    assert "secure" in behind_tls.post(f"/start/{word}").headers["set-cookie"].lower()
    headers = ann.client.get("/").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"
    assert ann.post("/answer", sent, **{"x-csrf": ann.csrf, "origin": ORIGIN}).status_code == 200


def test_wrong_links_are_limited(served):
    _, store, server = served
    word = new_link(store, "ann")
    guess = Reader(server)
    codes = [guess.get(f"/start/wrong{i}").status_code for i in range(12)]
    assert codes == [404] * 10 + [429] * 2
    assert guess.post(f"/start/{word}", None).status_code == 429
    limit = FailureLimit(most=2, window_seconds=0.0)
    for _ in range(5):
        limit.failed("x")
    assert not limit.blocked("x")


@pytest.mark.parametrize(
    "path",
    [
        "/image/1/left/../../study.json",
        "/image/1/left/%2e%2e%2f%2e%2e%2fstudy.json",
        "/image/1/..%2f..%2f..%2fetc/0.png",
        "/image/1/left/99999.png",
        "/image/1/left/-1.png",
        "/image/2/left/0.png",
        "/image/1/key/0.png",
        "/study.json",
        "/answers.sqlite",
        "/images/",
        "/static/study.js",
        "/../study.key.json",
        "//etc/passwd",
    ],
)
def test_no_other_file_is_reached(ann, path):
    response = ann.get(path)
    assert response.status_code in (404, 409) and b"schema" not in response.content


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", 400),
        (b"[1]", 400),
        (b"[" * 60000, 400),
        (b'{"trial": true}', 400),
        (b'"' + b"x" * 70000, 413),
        (b"\xff", 400),
    ],
)
def test_broken_answers_are_refused(served, ann, content, code):
    _, store, _ = served
    assert ann.client.post("/answer", content=content, headers={"x-csrf": ann.csrf}).status_code == code
    for value, seconds in (({"choice": "up"}, 1), ({"choice": "left"}, -1), ({"choice": "left"}, "1")):
        sent = {"trial": 1, "value": value, "seconds": seconds, "ticket": "ticket-0001"}
        assert ann.post("/answer", sent, **{"x-csrf": ann.csrf}).status_code == 400
    assert store.answers() == []


def test_a_used_port_and_an_unknown_reader_are_refused(served, capsys):
    made, _, _ = served
    with bind("127.0.0.1", 0) as listening:
        port = str(listening.getsockname()[1])
        assert main(["study", "serve", str(made.folder), "--port", port]) == 78
    assert main(["study", "serve", str(made.folder), "--port", "0", "--new-link", "carl"]) == 66
    assert "no reader of this study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "host", "address"),
    [
        ("127.0.0.1", "127.0.0.1", "http://127.0.0.1:8765"),
        ("::1", "::1", "http://[::1]:8765"),
        ("reading.local", "reading.local", "http://reading.local:8765"),
        ("https://study.hospital.org/", "study.hospital.org", "https://study.hospital.org"),
        ("https://study.hospital.org:8443", "study.hospital.org", "https://study.hospital.org:8443"),
    ],
)
def test_links_begin_with_the_address_that_readers_use(name, host, address):
    assert _public_address(name, 8765) == (host, address)


@pytest.mark.parametrize("name", ["ftp://study.org", "https://", "https://study.org/?a=1", "https://study.org/mri"])
def test_what_is_no_address_is_refused(name):
    with pytest.raises(ConfigError, match="expected a host name or an address like"):
        _public_address(name, 8765)
