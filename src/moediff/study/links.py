"""One-time links of readers: opening one starts a session that lives in a cookie; only hashes are stored."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict

from moediff.study.answers import AnswerStore, now

LINK, SESSION = "link", "session"
WORD_BYTES = 32
MOST_FAILURES, WINDOW_SECONDS, MOST_CLIENTS = 10, 600.0, 10_000


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode(errors="replace")).hexdigest()


def csrf_word(session: str) -> str:
    """What a page has to send along with every answer; only who has the cookie's value can know it."""
    return hashlib.sha256(f"csrf {session}".encode(errors="replace")).hexdigest()


def new_link(store: AnswerStore, reader: str) -> str:
    """The secret word of a new link; former links and sessions of this reader end."""
    store.trials(reader)
    word = secrets.token_urlsafe(WORD_BYTES)
    with store.transaction() as connection:
        connection.execute("UPDATE links SET ended_at = ? WHERE reader = ? AND ended_at IS NULL", (now(), reader))
        connection.execute("INSERT INTO links VALUES (?, ?, ?, ?, NULL)", (_digest(word), reader, LINK, now()))
    return word


def waiting_link(store: AnswerStore, reader: str) -> str | None:
    """When the link was made that this reader has not opened yet; None where none waits."""
    return _made_at(store, reader, LINK)


def has_session(store: AnswerStore, reader: str) -> bool:
    """Whether this reader has opened a link and can go on in that browser."""
    return _made_at(store, reader, SESSION) is not None


def _made_at(store: AnswerStore, reader: str, kind: str) -> str | None:
    query = "SELECT made_at FROM links WHERE reader = ? AND kind = ? AND ended_at IS NULL"
    row = store.connection.execute(query, (reader, kind)).fetchone()
    return None if row is None else str(row[0])


def is_open(store: AnswerStore, word: str) -> bool:
    """Whether a link with this word waits to be opened."""
    return _reader(store, word, LINK) is not None


def open_link(store: AnswerStore, word: str) -> str | None:
    """The secret of a new session, and the end of the link; None where there is no such link."""
    session = secrets.token_urlsafe(WORD_BYTES)
    with store.transaction() as connection:
        reader = _reader(store, word, LINK)
        if reader is None:
            return None
        connection.execute("UPDATE links SET ended_at = ? WHERE digest = ?", (now(), _digest(word)))
        connection.execute("INSERT INTO links VALUES (?, ?, ?, ?, NULL)", (_digest(session), reader, SESSION, now()))
    return session


def reader_of(store: AnswerStore, session: str) -> str | None:
    """The reader whose session this is."""
    return _reader(store, session, SESSION)


def _reader(store: AnswerStore, word: str, kind: str) -> str | None:
    query = "SELECT reader FROM links WHERE digest = ? AND kind = ? AND ended_at IS NULL"
    row = store.connection.execute(query, (_digest(word), kind)).fetchone()
    return row[0] if row and row[0] in store.study.readers else None


class FailureLimit:
    """Counts failures of each client; too many in a while and it has to wait."""

    def __init__(self, most: int = MOST_FAILURES, window_seconds: float = WINDOW_SECONDS) -> None:
        self.most, self.window_seconds = most, window_seconds
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def blocked(self, client: str) -> bool:
        """Whether this client has to wait."""
        return len(self._recent(client)) >= self.most

    def failed(self, client: str) -> None:
        """Count one failure."""
        self._failures[client] = [*self._recent(client), time.monotonic()]
        self._failures.move_to_end(client)
        if len(self._failures) > MOST_CLIENTS:
            self._failures.popitem(last=False)

    def _recent(self, client: str) -> list[float]:
        since = time.monotonic() - self.window_seconds
        return [moment for moment in self._failures.get(client, []) if moment > since]
