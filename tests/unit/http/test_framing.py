"""Answers as a thread reads them from a socket: their ends are where every parser sees them, or they are refused."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import pytest

from quaymirror.http.framing import Answer

BODY = bytes(range(256)) * 400
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


@contextmanager
def answered(sent: bytes, *, at_a_time: int = 1 << 20, closes: bool = True) -> Iterator[socket.socket]:
    """Hand out a socket to a server that sends this, in parts of so many bytes."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with suppress(OSError):  # the reader has refused the rest
            for start in range(0, len(sent), at_a_time):
                theirs.sendall(sent[start : start + at_a_time])

            if closes:
                theirs.shutdown(socket.SHUT_WR)

    with ours, theirs:
        ours.settimeout(5.0)
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield ours
        finally:
            ours.close()
            server.join()


def read(answer: Answer, at_a_time: int = 10_000) -> bytes:
    """Return the body."""
    body, view = bytearray(), memoryview(bytearray(at_a_time))
    while count := answer.read_into(view):
        body += view[:count]

    return bytes(body)


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("at_a_time", [1 << 20, 7])
@pytest.mark.parametrize(
    "sent",
    [
        OK + LENGTH + b"\r\n" + BODY,
        OK + LENGTH + LENGTH + b"\r\n" + BODY,
        CHUNKED + chunked(BODY[:100], BODY[100:]) + b"0\r\n\r\n",
        CHUNKED + b"10 ; name=value\r\n" + BODY[:16] + b"\r\n" + chunked(BODY[16:]) + b"0\r\nTrailer: a\r\n\r\n",
        OK.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n") + b"\n" + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2 + OK + LENGTH + b"\r\n" + BODY,
        b"HTTP/1.0 200\r\nConnection: Keep-Alive\r\n" + LENGTH + b"\r\n" + BODY,
    ],
)
def test_a_body_ends_where_it_should_and_the_connection_is_reusable(sent: bytes, at_a_time: int) -> None:
    with answered(sent, at_a_time=at_a_time, closes=False) as connected:
        answer = Answer(connected)
        before = answer.is_reusable
        assert (answer.status, read(answer)) == (200, BODY)
        assert (before, answer.is_reusable) == (False, True)
        assert answer.read_into(memoryview(bytearray(10))) == 0


@pytest.mark.parametrize(
    "sent",
    [
        OK + b"\r\n" + BODY,
        OK + b"Connection: x, Close\r\n" + LENGTH + b"\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
        # Two ends, of which another parser may see the other one.
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + chunked(BODY) + b"0\r\n\r\n",
    ],
)
def test_a_connection_is_not_reusable_after_an_answer_that_says_so(sent: bytes) -> None:
    with answered(sent) as connected:
        answer = Answer(connected)
        assert read(answer) == BODY
        assert not answer.is_reusable


def test_a_connection_is_not_reusable_after_bytes_that_belong_to_no_answer() -> None:
    small = OK + b"Content-Length: 5\r\n\r\nhello"
    with answered(small + small, closes=False) as connected:
        answer = Answer(connected)
        assert read(answer) == b"hello"
        assert not answer.is_reusable


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body_whatever_they_announce(status: int) -> None:
    with answered(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status, closes=False) as connected:
        answer = Answer(connected)
        assert (read(answer), answer.is_reusable) == (b"", True)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"no field\r\n\r\n",
        OK + b"Name : value\r\n\r\n",
        OK + b"Folded: a\r\n b\r\n\r\n",
        OK + b"X: a\rContent-Length: 5\r\n\r\n",
        OK + b"X: a\0b\r\n\r\n",
        OK + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        OK + b"X: a\r\n" * 20_000 + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + OK + b"\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        OK + b"Content-Length: -5\r\n\r\nhello",
        OK + b"Content-Length: 1_0\r\n\r\nhello",
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"\r\n",
        CHUNKED + b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
        CHUNKED + chunked(b"hello") + b"0\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    ],
)
def test_an_answer_that_parsers_understand_differently_is_refused(sent: bytes) -> None:
    with answered(sent) as connected, pytest.raises(ValueError, match=r"."):
        read(Answer(connected))


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200",
        OK + b"X: a",
        OK + LENGTH + b"\r\n" + BODY[:-1],
        CHUNKED,
        CHUNKED + chunked(BODY),
        CHUNKED + chunked(BODY)[:-10],
        CHUNKED + chunked(BODY) + b"0\r\nX: a\r\n",
    ],
)
def test_an_answer_that_ends_early_is_told_from_one_that_is_not_valid(sent: bytes) -> None:
    with answered(sent) as connected, pytest.raises(EOFError):
        read(Answer(connected))


def test_a_connection_without_any_answer_is_a_closed_one() -> None:
    with answered(b"") as connected, pytest.raises(ConnectionResetError):
        Answer(connected)


def test_fields_ignore_case_and_keep_every_value() -> None:
    with answered(OK + b"X-Name:  first \r\nx-name:second\r\nOther:\r\nContent-Length: 0\r\n\r\n") as connected:
        fields = Answer(connected).fields

    assert (fields["X-NAME"], fields.get("other"), fields.get("none")) == ("first", "", None)
    assert fields.all("x-Name") == ["first", "second"]
    assert [*fields] == ["x-name", "other", "content-length"]
    assert len(fields) == 3


@pytest.mark.parametrize(
    "content_type",
    ["multipart/x; boundary*=a; boundary*0=b", "multipart/x; boundary*=unknown'en'x", "message/delivery-status"],
)
def test_fields_are_not_those_of_a_mail(content_type: str) -> None:
    with answered(OK + b"Content-Type: %s\r\n" % content_type.encode() + LENGTH + b"\r\n" + BODY) as connected:
        answer = Answer(connected)
        assert answer.fields["Content-Type"] == content_type
        assert read(answer) == BODY


def test_a_line_whose_bytes_come_one_by_one_takes_as_long_as_any_silence_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    answer = Answer(cast(socket.socket, ByteByByte(CHUNKED + b"0" * 500)))
    with pytest.raises(TimeoutError):
        read(answer)


class ByteByByte:
    """A socket that has one byte at a time."""

    def __init__(self, sent: bytes) -> None:
        self._bytes = iter(sent)

    def gettimeout(self) -> float:
        """Return more than any line of the head takes."""
        return 100.0

    def recv(self, _: int) -> bytes:
        """Return the next byte."""
        return bytes([next(self._bytes)])
