"""Names of images in policies and signatures, as docker writes them (distribution/reference)."""

from __future__ import annotations

import re

from ..oci.reference import is_tag
from ..values import dataclass

_DIGEST = re.compile(r"[A-Za-z0-9_+.-]+:[0-9a-fA-F]{32,}")
_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_DOCKER_HUB = "docker.io"
_MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class DockerName:
    """A normalized name of an image: `repository` with its host, and a tag, a digest, both or neither."""

    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def parse_name(text: str) -> DockerName | None:
    """Return the image that `text` names, None if it is no name of an image."""
    name, at, digest = text.partition("@")
    if len(text) > _MOST_CHARACTERS or (at and not _DIGEST.fullmatch(digest)):
        return None

    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        name = head
    else:
        tag = ""

    if not name or (colon and not is_tag(tag) and name == head):
        return None

    host, path = _split_host(name)
    return DockerName(f"{host}/{path}", tag, digest) if _HOST.fullmatch(host) and _PATH.fullmatch(path) else None


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & {".", ":"} or first == "localhost" or first != first.lower()):
        first, rest = _DOCKER_HUB, name

    if first in (_DOCKER_HUB, "index.docker.io"):
        return _DOCKER_HUB, rest if "/" in rest else f"library/{rest}"

    return first, rest
