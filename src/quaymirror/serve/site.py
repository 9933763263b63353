"""All requests of a server: access, and the part that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .api import Api
from .lookaside import LOOKASIDE, answer_signature
from .messages import Answer, Request, error_answer
from .metrics import CONTENT_TYPE, ServerMetrics
from .passwords import PasswordFile
from .registry import ServedRegistry

Handler = Callable[[Request], Awaitable[Answer]]
_CHALLENGE = 'Basic realm="quaymirror", charset="UTF-8"'


class Site:
    """The registry at `/v2/`, health, metrics, and pages for everything else."""

    def __init__(
        self, registry: ServedRegistry, metrics: ServerMetrics, *, passwords: PasswordFile | None, pages: Handler
    ) -> None:
        self.connections = 0
        self.metrics = metrics
        self._registry = registry
        self._api = Api(registry)
        self._passwords = passwords
        self._pages = pages

    async def answer(self, request: Request) -> Answer:
        """Answer a request. The server's health is shown to all, everything else to users only."""
        if request.path == "/healthz":
            return self._health()

        if self._passwords is not None and not await self._passwords.accepts(request.header("Authorization")):
            return self._challenge()

        if request.path == "/v2" or request.path.startswith("/v2/"):
            return await self._api.answer(request)

        if request.method not in ("GET", "HEAD"):
            return error_answer(405, "UNSUPPORTED", "this server is read-only", Allow="GET, HEAD")

        if request.path.startswith(LOOKASIDE):
            return await answer_signature(self._registry, request)

        if request.path == "/metrics":
            body = self.metrics.text(self.connections)
            return Answer(200, {"Content-Type": CONTENT_TYPE}, body, kind="metrics")

        return await self._pages(request)

    def _health(self) -> Answer:
        problem = self._registry.problem
        text = "a mirror can't be read\n" if problem else "ok\n"
        headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"}
        return Answer(503 if problem else 200, headers, text.encode(), kind="health", note=problem)

    def _challenge(self) -> Answer:
        answer = error_answer(401, "UNAUTHORIZED", "a user name and a password are needed")
        answer.headers |= {"WWW-Authenticate": _CHALLENGE, "Docker-Distribution-API-Version": "registry/2.0"}
        return answer
