"""Pages for people: rendered here, without scripts but for the live page."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import quote

import anyio

from ..errors import InvalidName
from ..oci import Digest
from ..oci.reference import is_registry_host
from ..pages import Markup, environment
from ..store.records import Acceptance
from ..text import escape_controls
from .commands import pull_commands
from .details import image_details
from .live import LiveRun
from .messages import Answer, Request
from .overview import ImageNumbers, Overview, Overviews
from .registry import ServedRegistry

_HTML = "text/html; charset=utf-8"
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_STATIC = {"/static/style.css": "text/css; charset=utf-8", "/static/live.js": "text/javascript; charset=utf-8"}
_NAVIGATION = [("/", "Images"), ("/snapshots", "Snapshots"), ("/run", "Current run")]
_MAX_FOUND = 500
_MAX_QUERY = 200
_EVENT_SECONDS = 1.0
_MAX_STREAMS = 100


class Pages:
    """The handler of everything outside of `/v2/`."""

    def __init__(
        self,
        registry: ServedRegistry,
        runs: Sequence[LiveRun] = (),
        *,
        address: str = "",
        is_secure: bool = False,
        at: str = "",
    ) -> None:
        self._registry = registry
        self._overviews = Overviews(registry)
        self._runs = runs
        self._address = address
        self._is_secure = is_secure
        self._at = at
        self._streams = 0
        self._stopping = False
        self._environment = environment("quaymirror.serve")
        self._environment.filters |= {"date": _date, "lines": _lines, "link": _link}

    def stop(self) -> None:
        """End the streams of events."""
        self._stopping = True

    async def answer(self, request: Request) -> Answer:
        """Answer a request for a page."""
        path = request.path
        if path in _STATIC:
            content = resources.files(__package__).joinpath(path[1:]).read_bytes()
            return Answer(200, {"Content-Type": _STATIC[path], "Cache-Control": "max-age=3600"}, content, kind="page")

        if path == "/":
            return await self._home(request)

        if path == "/run":
            return self._page(request, "run.html", runs=[await run.current() for run in self._runs])

        if path == "/run/events":
            return self._events()

        if path == "/snapshots" or path.startswith("/snapshots/"):
            return await self._snapshots(request, path.removeprefix("/snapshots").removeprefix("/"))

        if path.startswith("/images/"):
            return await self._image_or_repository(request, path.removeprefix("/images/"))

        return self._missing(request)

    async def _home(self, request: Request) -> Answer:
        overview = await self._overviews.current()
        query = request.query.get("q", "").strip()[:_MAX_QUERY]
        found = list(_search(overview, query)) if query else []
        problems = [f"{mirror.storage} can't be read now" for mirror in self._registry.mirrors if mirror.problem]
        return self._page(
            request,
            "home.html",
            overview=overview,
            repositories=overview.repositories.values(),
            images=found[:_MAX_FOUND],
            left_out=max(0, len(found) - _MAX_FOUND),
            problems=problems,
        )

    async def _image_or_repository(self, request: Request, name: str) -> Answer:
        overview = await self._overviews.current()
        known = overview.repositories.get(name)
        if known is not None:
            return self._page(request, "repository.html", repository=known)

        full, at, digest = name.partition("@")
        tag = ""
        if not at:
            full, _, tag = name.rpartition(":")

        repository = self._registry.repository(full)
        named = await self._registry.image(repository, tag) if repository is not None and tag else None
        try:
            root = named[1].root.digest if named is not None else Digest.parse(digest)
            chosen = Digest.parse(request.query["image"]) if "image" in request.query else None
        except InvalidName:
            return self._missing(request)

        details = (
            await image_details(self._registry, repository, root, chosen, overview.uses)
            if repository is not None
            else None
        )
        if details is None:
            return self._missing(request)

        verdicts: tuple[Acceptance, ...] = ()
        if named is not None and (earlier := named[0].mirror.earlier) is not None:
            find = partial(earlier.verdicts, f"{named[0].name}:{tag}", root)
            verdicts = await self._registry.in_thread(named[0].mirror, find)

        commands = pull_commands(self._host(request), full, tag, str(root), is_secure=self._is_secure)
        return self._page(
            request, "image.html", name=name, repository=full, details=details, commands=commands, verdicts=verdicts
        )

    async def _snapshots(self, request: Request, snapshot_id: str) -> Answer:
        """Return the list of snapshots of all mirrors, or the changes of one."""
        sets = [(mirror, mirror.earlier) for mirror in self._registry.mirrors if mirror.earlier is not None]
        if not snapshot_id:
            lists = [
                (str(mirror.storage), await self._registry.in_thread(mirror, earlier.snapshots))
                for mirror, earlier in sets
            ]
            return self._page(request, "snapshots.html", lists=lists)

        for mirror, earlier in sets:
            changes = await self._registry.in_thread(mirror, partial(earlier.changes, snapshot_id))
            if changes is not None:
                names = mirror.full_name
                parts = [("New", changes.new), ("Moved", changes.moved), ("Removed", changes.removed)]
                shown = [(title, [names(name) for name in found]) for title, found in parts if found]
                return self._page(request, "snapshot.html", snapshot=changes.snapshot, changes=shown)

        return self._missing(request)

    def _events(self) -> Answer:
        if self._streams >= _MAX_STREAMS:
            return Answer(503, {"Content-Type": "text/plain; charset=utf-8"}, b"too many open pages\n", kind="page")

        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Answer(200, headers, events=self._stream(), kind="page")

    async def _stream(self) -> AsyncIterator[bytes]:
        """Yield the fragment of the page about runs whenever it has changed, and a comment to show that all is well."""
        self._streams += 1
        last = ""
        try:
            while not self._stopping:
                runs = [await run.current() for run in self._runs]
                fragment = self._environment.get_template("runs.html").render(runs=runs)
                data = "".join(f"data: {line}\n" for line in fragment.splitlines())
                yield f"{data}\n".encode() if fragment != last else b":\n\n"
                last = fragment
                await anyio.sleep(_EVENT_SECONDS)
        finally:
            self._streams -= 1

    def _missing(self, request: Request) -> Answer:
        text = "There is no such page here. The image may have been removed."
        return self._page(request, "error.html", status=404, title="Not found", text=text)

    def _page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Answer:
        text = self._environment.get_template(template).render(
            navigation=_NAVIGATION,
            here=request.path,
            q=request.query.get("q", "")[:_MAX_QUERY],
            address=self._host(request),
            at=self._at,
            **values,
        )
        headers = {
            "Content-Type": _HTML,
            "Content-Security-Policy": _POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }
        return Answer(status, headers, text.encode(errors="replace"), kind="page")

    def _host(self, request: Request) -> str:
        """Return the address of this server as the client knows it."""
        host = request.header("Host")
        return host if is_registry_host(host) else self._address


def _search(overview: Overview, query: str) -> list[ImageNumbers]:
    """Return the images whose names match every word of `query`: a part of the name, or a glob."""
    words = [word if any(c in word for c in "*?[") else f"*{word}*" for word in query.lower().split()]
    images = (image for repository in overview.repositories.values() for image in repository.images)
    return [image for image in images if all(_matches(image, word) for word in words)]


def _matches(image: ImageNumbers, glob: str) -> bool:
    names = (image.name, image.repository, image.repository.rpartition("/")[2], image.tag)
    return any(fnmatchcase(name.lower(), glob) for name in names)


def _lines(text: str) -> Markup:
    return Markup("\n").join(escape_controls(line) for line in text.split("\n"))


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment)) if moment else "unknown"


def _link(name: str) -> str:
    return f"/images/{quote(name, safe='/:@')}"
