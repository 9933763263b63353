"""Scripted faults: the requests that fail, and the way they fail.

A `Fault` selects requests (by path, method, listener, count, chance), and its *action* changes their answers. All
faults that apply act in list order, each on the result of the ones before it, so a `Delay` can be combined with a
`Status`.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from aiohttp import web
from multidict import CIMultiDict

from quaymirror.testing.messages import Answer, Body, Delivery, Request, nginx_page, redirect
from quaymirror.testing.recording import Listener


class Action:
    """The effect of a fault. Subclasses override either method or both."""

    def on_request(self, request: Request) -> Request:
        """Return the request as the handler shall see it."""
        return request

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the answer to give in place of *answer*."""
        return answer


@dataclass(slots=True, eq=False)
class Fault:
    """An action and the requests it applies to.

    A request matches if the regular expression *path* is found in its decoded path (and *query*, if given, in its
    query string) and method and listener agree. Of the matching requests, the fault takes those whose number (from 1)
    is *nth*, or all; of these each with *probability*, or all; and after *times* of them no more.
    ``matched`` and ``fired`` count.
    """

    path: str
    action: Action
    method: str | None = None
    listener: Listener | None = None
    nth: int | Sequence[int] | None = None
    probability: float | None = None
    times: int | None = None
    query: str | None = None
    matched: int = field(default=0, init=False)
    fired: int = field(default=0, init=False)

    def takes(self, request: Request, listener: Listener, rng: random.Random) -> bool:
        """Count *request* and return whether the fault applies to it."""
        if not self._matches(request, listener):
            return False
        self.matched += 1
        if not self._fires(rng):
            return False
        self.fired += 1
        return True

    def _matches(self, request: Request, listener: Listener) -> bool:
        if self.method not in (None, request.method) or self.listener not in (None, listener):
            return False
        if self.query is not None and not re.search(self.query, request.query_string):
            return False
        return re.search(self.path, request.path) is not None

    def _fires(self, rng: random.Random) -> bool:
        wanted = (self.nth,) if isinstance(self.nth, int) else self.nth
        if wanted is not None and self.matched not in wanted:
            return False
        if self.times is not None and self.fired >= self.times:
            return False
        return self.probability is None or rng.random() < self.probability


@dataclass(frozen=True, slots=True)
class Status(Action):
    """Answer *code* instead; the body is *body*, with a true Content-Length."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the error."""
        return Answer(self.code, CIMultiDict(self.headers), self.body, len(self.body), delivery=answer.delivery)


def too_many_requests(retry_after: str | None = None) -> Status:
    """Return nginx's 429: HTML, and without *retry_after* no hint when to come back, as quay.io sends it."""
    page = nginx_page(429, "Too Many Requests")
    headers = dict(page.headers) | ({} if retry_after is None else {"Retry-After": retry_after})
    return Status(429, headers, bytes(page.body) if isinstance(page.body, bytes) else b"")


def bad_gateway(status: int = 502, reason: str = "Bad Gateway") -> Status:
    """Return the page nginx sends when Quay itself doesn't answer."""
    page = nginx_page(status, reason)
    return Status(status, dict(page.headers), bytes(page.body) if isinstance(page.body, bytes) else b"")


class _Alters(Action):
    """An action that only changes the delivery."""

    def change(self, delivery: Delivery) -> Delivery:
        """Return the altered delivery."""
        raise NotImplementedError

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the same answer, delivered otherwise."""
        return answer.delivered(self.change)


@dataclass(frozen=True, slots=True)
class CutBody(_Alters):
    """Announce the true length and drop the connection after *after* bytes of body."""

    after: int

    def change(self, delivery: Delivery) -> Delivery:
        """Set the place of the cut."""
        return replace(delivery, cut_after=self.after)


@dataclass(frozen=True, slots=True)
class ShortBody(_Alters):
    """Announce no length, send *after* bytes of body and close cleanly: HTTP can't show that the rest is missing."""

    after: int

    def change(self, delivery: Delivery) -> Delivery:
        """Set the place of the cut, and end the body by closing."""
        return replace(delivery, cut_after=self.after, until_close=True)


@dataclass(frozen=True, slots=True)
class Stall(_Alters):
    """Send *after* bytes of body, then nothing until the client leaves or *seconds* are over, and then the rest."""

    after: int = 0
    seconds: float | None = None

    def change(self, delivery: Delivery) -> Delivery:
        """Set the place of the stall."""
        return replace(delivery, stall_after=self.after, stall_seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Delay(_Alters):
    """Let *seconds* pass before anything is sent."""

    seconds: float

    def change(self, delivery: Delivery) -> Delivery:
        """Set the delay."""
        return replace(delivery, delay=self.seconds)


@dataclass(frozen=True, slots=True)
class Hold(_Alters):
    """Send nothing before *until* is set, so that a test needs no clock."""

    until: asyncio.Event

    def change(self, delivery: Delivery) -> Delivery:
        """Set the event to wait for."""
        return replace(delivery, hold=self.until)


@dataclass(frozen=True, slots=True)
class DribbleBody(_Alters):
    """Send the body *chunk* bytes at a time with *interval* seconds between."""

    chunk: int = 1
    interval: float = 1.0

    def change(self, delivery: Delivery) -> Delivery:
        """Set the pace."""
        return replace(delivery, chunk=self.chunk, interval=self.interval)


@dataclass(frozen=True, slots=True)
class Reset(_Alters):
    """Answer with a TCP reset."""

    def change(self, delivery: Delivery) -> Delivery:
        """Send nothing else."""
        return replace(delivery, reset=True)


@dataclass(frozen=True, slots=True)
class Raw(_Alters):
    """Write *payload* to the connection as it is and close: malformed HTTP, endless 1xx, lying lengths."""

    payload: bytes

    def change(self, delivery: Delivery) -> Delivery:
        """Send nothing else."""
        return replace(delivery, raw=self.payload)


@dataclass(frozen=True, slots=True)
class CorruptBody(Action):
    """Flip one bit of the byte at *offset* of the body (counted modulo its length), which keeps its length."""

    offset: int = 0

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the altered body; an empty one stays."""
        if not isinstance(answer.body, bytes | memoryview) or not len(answer.body):
            return answer
        altered = bytearray(answer.body)
        altered[self.offset % len(altered)] ^= 0x01
        return answer.with_body(memoryview(altered), answer.length)


@dataclass(frozen=True, slots=True)
class ReplaceBody(Action):
    """Answer with *body* instead and its true length, and maybe another media type; status and headers stay."""

    body: bytes
    content_type: str | None = None

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the other body."""
        sent: Body = b"" if source.method == "HEAD" else self.body
        replaced = answer.with_body(sent, len(self.body))
        return replaced.with_headers({"Content-Type": self.content_type}) if self.content_type else replaced


@dataclass(frozen=True, slots=True)
class ExtraHeaders(Action):
    """Set headers over those of the answer. A sequence of pairs may repeat a name."""

    headers: Mapping[str, str] | Sequence[tuple[str, str]]

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the answer with the headers."""
        return answer.with_headers(CIMultiDict(self.headers))


@dataclass(frozen=True, slots=True)
class Redirect(Action):
    """Send the client to *url*."""

    url: str
    status: int = 302

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the redirect."""
        return replace(redirect(self.url, self.status), delivery=answer.delivery)


@dataclass(frozen=True, slots=True)
class IgnoreRange(Action):
    """Answer as if no Range had been asked for: 200 and everything, as Quay does when it streams blobs itself."""

    def on_request(self, request: Request) -> Request:
        """Hide the header."""
        return request.without_header("Range")


@dataclass(frozen=True, slots=True)
class WrongContentRange(Action):
    """Replace the Content-Range of a partial answer; None removes it."""

    value: str | None

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the lie, if the answer is partial."""
        if answer.status != 206:
            return answer
        told = answer.headers.copy()
        told.popall("Content-Range", None)
        if self.value is not None:
            told["Content-Range"] = self.value
        return replace(answer, headers=told)


@dataclass(frozen=True, slots=True)
class Call(Action):
    """Ask *function* for the answer; the honest one is given if it returns None."""

    function: Callable[[web.BaseRequest], web.StreamResponse | None]

    def on_answer(self, answer: Answer, source: web.BaseRequest) -> Answer:
        """Return the result of the function."""
        response = self.function(source)
        if response is None:
            return answer
        return answer.delivered(lambda delivery: replace(delivery, response=response))
