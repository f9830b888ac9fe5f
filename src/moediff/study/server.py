"""Server of a reader study: Starlette on loopback, one session a reader, answers stored before the next trial appears.

What a browser gets: the page, its script and style, a view of the reader's own next trial, and that trial's slices at
addresses that name the trial and the side, never an image. The key is not read by this process.
"""

from __future__ import annotations

import html
import json
import socket
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moediff._version import RESEARCH_ONLY
from moediff.core.errors import ConfigError, DataError
from moediff.study.answers import Answer, AnswerStore, StaleTrial, now
from moediff.study.links import (
    FailureLimit,
    csrf_word,
    has_session,
    is_open,
    new_link,
    open_link,
    reader_of,
    waiting_link,
)
from moediff.study.records import IMAGE_FOLDER
from moediff.study.views import panels, trial_view

COOKIE, COOKIE_DAYS = "study", 180
MOST_BYTES = 1 << 16  # of an answer
USED = "This link is not valid, or was used before: ask for a new one."
# A link from a mail comes without the cookie (SameSite=strict); one on our own page brings it.
GO_ON = '<p>If you opened it in this browser before, <a href="/">go on here</a>.</p>'
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, browsers would hide the origin of our own POSTs
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Refused(Exception):
    """An answer of the server that is not the one hoped for."""

    def __init__(self, status: int, message: str, *, go_on: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.go_on = go_on  # the page links to the reader's own one


class SecurityHeaders:
    """Adds `HEADERS` to every response, whoever made it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, with_headers)


@dataclass
class StudyServer:
    """The handlers; every one refuses with a status and a sentence."""

    folder: Path
    store: AnswerStore
    limit: FailureLimit = field(default_factory=FailureLimit)

    def app(self, hosts: tuple[str, ...] = ()) -> Starlette:
        """The application; requests to other host names than these and loopback are refused (DNS rebinding)."""
        routes = [
            Route("/", self.page),
            Route("/start/{word}", self.start, methods=["GET", "POST"]),
            Route("/study.js", self.asset),
            Route("/study.css", self.asset),
            Route("/trial", self.trial),
            Route("/image/{trial:int}/{panel}/{index:int}.png", self.image),
            Route("/answer", self.answer, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
        ]
        guards = [Middleware(SecurityHeaders), Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *hosts])]
        return Starlette(routes=routes, middleware=guards, exception_handlers={Refused: _refusal})

    async def start(self, request: Request) -> Response:
        """A page with one button (a mail program that follows links must not use one up), then the session."""
        client = request.client.host if request.client else "unknown"
        if self.limit.blocked(client):
            raise Refused(429, "Too many wrong links: wait ten minutes.")
        word = request.path_params["word"]
        if request.method != "POST":
            if not is_open(self.store, word):
                self.limit.failed(client)
                raise Refused(404, USED, go_on=True)
            return self._html("start.html")
        _same_origin(request)
        session = open_link(self.store, word)
        if session is None:
            self.limit.failed(client)
            raise Refused(404, USED, go_on=True)
        response = RedirectResponse("/", status_code=303)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))  # or a proxy in front has it
        age = COOKIE_DAYS * 86400
        response.set_cookie(COOKIE, session, max_age=age, httponly=True, samesite="strict", secure=secure)
        return response

    async def page(self, request: Request) -> Response:
        """The reader's page."""
        self._reader(request)
        return self._html("study.html", csrf=csrf_word(request.cookies[COOKIE]))

    async def asset(self, request: Request) -> Response:
        """Script and style, by fixed names."""
        name = request.url.path.removeprefix("/")
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        return Response(_static(name), media_type=kind)

    async def trial(self, request: Request) -> Response:
        """The reader's next trial."""
        return self._reply(self._reader(request))

    async def image(self, request: Request) -> Response:
        """A slice of the reader's next trial."""
        reader = self._reader(request)
        trials, done = self.store.trials(reader), self.store.done(reader)
        if done >= len(trials) or request.path_params["trial"] != done + 1:
            raise Refused(409, "This is not your present trial.")
        image = panels(trials[done]).get(request.path_params["panel"])
        index = request.path_params["index"]
        if image is None or index >= self.store.study.stacks[image].slices:
            raise Refused(404, "No such picture.")
        return Response((self.folder / IMAGE_FOLDER / image / f"{index}.png").read_bytes(), media_type="image/png")

    async def answer(self, request: Request) -> Response:
        """Store an answer; the next trial comes back."""
        reader, sent = await self._posted(request)
        try:
            answer = Answer(
                reader=reader,
                trial=_whole(sent, "trial"),
                value=_table(sent, "value"),
                seconds=sent.get("seconds", -1),
                answered_at=now(),
                ticket=_word(sent, "ticket"),
            )
            self.store.add(answer)
        except StaleTrial as error:
            raise Refused(409, "This trial was answered already, perhaps in another window.") from error
        except DataError as error:
            raise Refused(400, str(error)) from error
        return self._reply(reader)

    async def undo(self, request: Request) -> Response:
        """Take back the last answer of this session; its trial comes back."""
        reader, sent = await self._posted(request)
        trial = _whole(sent, "trial")
        if trial != self._state(reader)["undo"]:
            raise Refused(409, "Only the last answer of a session can be taken back, and only once.")
        try:
            self.store.undo(reader, trial)
        except StaleTrial as error:
            raise Refused(409, "Only the last answer can be taken back, and only once.") from error
        return self._reply(reader)

    def _reader(self, request: Request) -> str:
        reader = reader_of(self.store, request.cookies.get(COOKIE, ""))
        if reader is None:
            raise Refused(403, "Open the link that was sent to you. If you used it before, go on in the same browser.")
        return reader

    async def _posted(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The reader and what the page sent, from our own page only."""
        reader = self._reader(request)
        _same_origin(request)
        if request.headers.get("x-csrf") != csrf_word(request.cookies[COOKIE]):
            raise Refused(403, "This did not come from the study's page: reload it.")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise Refused(413, "The answer is too long.")
        try:
            sent = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "The answer is no JSON.") from error
        if not isinstance(sent, dict):
            raise Refused(400, "The answer is no table of values.")
        return reader, sent

    def _reply(self, reader: str) -> Response:
        return JSONResponse(self._state(reader))

    def _state(self, reader: str) -> dict[str, Any]:
        state = trial_view(self.store.study, reader, self.store.done(reader))
        return state if self.store.can_undo(reader) else {**state, "undo": 0}

    def _html(self, name: str, **values: str) -> Response:
        text = _static(name)
        for key, value in {"title": self.store.study.title, "notice": RESEARCH_ONLY, **values}.items():
            text = text.replace(f"[[{key}]]", html.escape(value))
        return Response(text, media_type="text/html")


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if request.headers.get("accept", "").startswith("text/html"):
        text = _static("message.html").replace("[[go_on]]", GO_ON if error.go_on else "")
        text = text.replace("[[message]]", html.escape(str(error)))
        return Response(text, status_code=error.status, media_type="text/html")
    return JSONResponse({"message": str(error)}, status_code=error.status)


def _same_origin(request: Request) -> None:
    """Browsers name the page that sends a POST."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refused(403, "This came from another site.")


def _static(name: str) -> str:
    return files("moediff.study").joinpath("static", name).read_text(encoding="utf-8")


def _whole(sent: dict[str, Any], name: str) -> int:
    value = sent.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(400, f"{name}: expected a whole number")
    return value


def _table(sent: dict[str, Any], name: str) -> dict[str, Any]:
    value = sent.get(name)
    if not isinstance(value, dict):
        raise Refused(400, f"{name}: expected a table")
    return value


def _word(sent: dict[str, Any], name: str) -> str:
    value = sent.get(name)
    if not isinstance(value, str) or not 8 <= len(value) <= 64:
        raise Refused(400, f"{name}: expected a word of 8 to 64 letters")
    return value


def links_to_send(store: AnswerStore, renewed: tuple[str, ...]) -> dict[str, str | None]:
    """For every reader the word of a new link; None for those who have a session or a link already, unless renewed.

    Raises:
        InputMissing: one of `renewed` is no reader.
    """
    for reader in renewed:
        store.trials(reader)
    return {
        reader: new_link(store, reader)
        if reader in renewed or not (has_session(store, reader) or waiting_link(store, reader))
        else None
        for reader in store.study.readers
    }


def bind(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host} port {port} cannot be used ({error}): choose another one (--port)") from error


def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn

    uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False)
    ).run(sockets=[listening])
