"""Random secrets in every kind of failure: none of them appears in any output, in any encoding."""

from __future__ import annotations

import base64
import json
import logging
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus

import anyio
import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from organizations import TAG, small_image
from trouble import Impatient

import quaymirror
from quaymirror import Options, Report, Selection
from quaymirror.errors import ConfigError
from quaymirror.events import Event
from quaymirror.http.timeouts import Timeouts
from quaymirror.progress.combined import CombinedProgress
from quaymirror.progress.run import RunProgress
from quaymirror.secret import Credentials, Secret
from quaymirror.testing import (
    Action,
    Call,
    CorruptBody,
    CutBody,
    Fault,
    QuayServer,
    Raw,
    Redirect,
    Registry,
    ReplaceBody,
    Reset,
    ShortBody,
    Stall,
    bad_gateway,
    too_many_requests,
)
from quaymirror.testing import Status as Answer
from quaymirror.ui.jsonl import JsonLines
from quaymirror.ui.lines import Lines
from quaymirror.ui.log import JsonFormatter, LogObserver, TextFormatter

# No word has this many of these letters in a row, so that a match is no coincidence.
SECRETS = st.text("QZXJqzxj079%&+=/\\\"'<>~ä ", min_size=24, max_size=40).map(lambda text: f"Q{text.strip()}Z")
TOKENS = st.text("QZXJqzxj079%&+=/~", min_size=24, max_size=40)

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="https://evil.example/token",service="x"'}


def echo(request: web.BaseRequest) -> web.StreamResponse:
    """An error that holds all that it was sent, as debugging proxies have it."""
    said = dict(request.headers)
    code = "".join(c for c in request.headers.get("Authorization", "") if c.isalpha())[:40]
    body = json.dumps({"errors": [{"code": code or "X", "message": str(said)}], "url": str(request.url)})
    return web.Response(status=400, text=body, headers={"Location": str(request.url), "X-Sent": str(said)[:4000]})


def astray(request: web.BaseRequest) -> web.StreamResponse:
    """A redirect to a path with the received credentials."""
    told = quote(request.headers.get("Authorization", request.query_string), safe="")
    return web.Response(status=307, headers={"Location": f"/lost/{told}?{told}"})


ACTIONS: dict[str, Action] = {
    "401": Answer(401),
    "a realm elsewhere": Answer(401, CHALLENGE),
    "a challenge for a password": Answer(401, {"WWW-Authenticate": "Basic"}),
    "403": Answer(403),
    "404": Answer(404),
    "429": too_many_requests("1"),
    "502": bad_gateway(),
    "a teapot": Answer(418),
    "cut": CutBody(10),
    "short": ShortBody(10),
    "silence": Stall(5),
    "other bytes": CorruptBody(3),
    "another body": ReplaceBody(b'{"error": 1}'),
    "a reset": Reset(),
    "no HTTP": Raw(b"garbage\r\n\r\n"),
    "a redirect": Redirect("https://evil.example:1/x?X-Amz-Signature=s"),
    "a redirect to a file": Redirect("file:///etc/passwd"),
    "an echo": Call(echo),
    "an echo in a redirect": Call(astray),
}
PLACES = {
    "listing": "^/api/v1/repository$",
    "probe": "^/api/v1/repository/",
    "tags": "/tag/$",
    "token service": "^/v2/auth",
    "manifests": "/manifests/",
    "blobs": "^/v2/.*/blobs/",
    "CDN": "^/blob/",
}
WAYS = ("login", "api token", "auth file", "helper", "identity token", "wrong password")


@dataclass
class Everything:
    """All that a run leaves behind or shows, as texts."""

    lines: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def watch(self, event: Event) -> None:
        self.events.append(event)
        self.lines.append(repr(event))
        for observer in self._observers:
            observer(event)

    def __post_init__(self) -> None:
        progress = RunProgress()
        self._observers: list[Any] = [progress.apply, JsonLines(self.lines.append)]
        self._observers.append(Lines(CombinedProgress([progress]), self.lines.append, verbose=True))
        for formatter in (TextFormatter(), JsonFormatter()):
            logger = logging.Logger("test", logging.DEBUG)
            logger.addHandler(handler := _Into(self.lines))
            handler.setFormatter(formatter)
            self._observers.append(LogObserver(logger))

    def add_report(self, report: Report) -> None:
        self.lines += [json.dumps(report.to_json()), json.dumps(report.to_json(), ensure_ascii=False), repr(report)]
        errors = [*(outcome.error for outcome in report.outcomes), *(check.error for check in report.failed_checks)]
        for error in (*errors, report.fatal):
            if error is not None:
                self.lines.append(repr(error))
                self.add_error(error.error())

    def add_error(self, error: BaseException) -> None:
        self.lines += [str(error), repr(error), *traceback.format_exception(error)]

    def add_files(self, root: Path) -> None:
        for path in root.rglob("*"):
            self.lines.append(str(path.relative_to(root)))
            if path.is_file() and "blobs" not in path.parts:
                self.lines.append(path.read_bytes().decode("latin-1"))


class _Into(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


def forms(secret: str) -> Iterator[str]:
    """Return the encodings of a secret."""
    yield secret
    for text in (secret, f"kolla+robot:{secret}", f"$oauthtoken:{secret}"):
        encoded = base64.b64encode(text.encode()).decode()
        yield from (encoded, encoded.rstrip("="), encoded.replace("+", "-").replace("/", "_"))

    yield from (quote(secret), quote(secret, safe=""), quote_plus(secret))
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])


def environment(way: str, server: QuayServer, password: str, root: Path) -> tuple[Path, Mapping[str, str]]:
    """Return the auth file, and the environment in which its helper is found."""
    file, program = root / "auth.json", root / "docker-credential-canary"
    if way == "helper":
        answer = json.dumps({"ServerURL": server.host, "Username": "kolla+robot", "Secret": password})
        (root / "answer").write_text(answer)
        program.write_text(f"#!/bin/sh\nexec cat {root / 'answer'}\n")
        program.chmod(0o755)
        file.write_text(json.dumps({"credHelpers": {server.host: "canary"}}))
    else:
        both = base64.b64encode(f"kolla+robot:{password}".encode()).decode()
        entries = {"auth file": {"auth": both}, "identity token": {"auth": "MDA6", "identitytoken": password}}
        file.write_text(json.dumps({"auths": {server.host: entries[way]} if way in entries else {}}))

    return file, {"PATH": f"{root}:/usr/bin:/bin", "HOME": str(root)}


async def run(way: str, place: str, action: Action, password: str, token: str) -> None:
    registry = Registry()
    organization = registry.organization("kolla")
    organization.grant("operator")
    organization.repository("nova", public=False).push(TAG, small_image("nova", 3000))
    robot = registry.robot("kolla+robot", token=password if way != "wrong password" else "another")
    organization.grant(robot.name)
    if way == "identity token":
        registry.identity_token(robot.name, value=password)

    registry.oauth_token("operator", value=token)
    everything, handler = Everything(), _Into([])
    root_logger = logging.getLogger()
    level = root_logger.level
    with tempfile.TemporaryDirectory() as directory:
        root, kept = Path(directory), Path(directory, "kept")
        root_logger.addHandler(handler)
        root_logger.setLevel(logging.DEBUG)
        try:
            async with QuayServer(registry, require_token=True) as server:
                server.faults.append(Fault(PLACES[place], action))
                file, env = environment(way, server, password, root)
                is_login = way in ("login", "wrong password")
                options = Options.of(
                    server=server.url,
                    retries=1,
                    api_token=Secret(token),
                    credentials=Credentials("kolla+robot", Secret(password)) if is_login else None,
                    authfile=file,
                    environment=env,
                    timeouts=Timeouts(connect=0.5, headers=0.2, stall=0.2, total=0.4),
                    retry=Impatient().policy(),
                )
                everything.lines.append(repr(options))
                try:
                    selection = Selection("kolla", "*", TAG)
                    everything.add_report(await quaymirror.sync(selection, kept, options, observer=everything.watch))
                except quaymirror.QuaymirrorError as error:
                    everything.add_error(error)

                secrets = {password, token, *told(server)}
        finally:
            root_logger.removeHandler(handler)
            root_logger.setLevel(level)

        everything.add_files(kept)

    text = "\n".join([*everything.lines, *handler._lines])
    assert len(text) > 1000
    for secret in secrets:
        for form in forms(secret):
            at = text.find(form)
            assert at < 0, f"{way}, {place}: {text[max(0, at - 200) : at + 100]}"


def told(server: QuayServer) -> Iterator[str]:
    """Return the secrets that the server received: tokens, and the signatures of its links."""
    for request in server.requests:
        _, _, value = request.headers.get("authorization", "").partition(" ")
        if value:
            yield value

        if request.listener == "cdn":
            yield from (value for key, value in parse_qsl(request.query) if "ignature" in key and len(value) > 12)


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=1, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(password=SECRETS, token=TOKENS)
def test_no_failure_tells_a_secret(place: str, password: str, token: str) -> None:
    # Each answer of each place in one way to log in: over all places, each answer meets each way.
    first = [*PLACES].index(place)
    for number, action in enumerate(ACTIONS.values(), first):
        anyio.run(run, WAYS[number % len(WAYS)], place, action, password, token)


@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=1, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(password=SECRETS, token=TOKENS)
def test_no_way_to_log_in_tells_a_secret_with_any_failure(way: str, place: str, password: str, token: str) -> None:
    for action in ACTIONS.values():
        anyio.run(run, way, place, action, password, token)


@given(secret=SECRETS)
@settings(max_examples=50, deadline=None)
def test_a_helper_s_answer_for_another_server_is_not_repeated(secret: str) -> None:
    from quaymirror.auth.helper import _parse_answer

    for answer in (
        json.dumps({"ServerURL": f"https://{secret}", "Username": "u", "Secret": secret}),
        json.dumps({"ServerURL": "quay.io", "Username": f"{secret}:", "Secret": secret}),
        json.dumps({"ServerURL": "quay.io", "Username": "u", "Secret": f"{secret}\n"}),
        secret,
        json.dumps([secret]),
    ):
        with pytest.raises(ConfigError) as caught:
            _parse_answer(answer.encode(), "docker-credential-x", "quay.io")

        shown = "".join(traceback.format_exception(caught.value))
        assert not any(form in shown for form in forms(secret))
