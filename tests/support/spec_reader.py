"""A reader of layouts and registries, written from the OCI specifications alone: it shares no code with quaymirror."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

NAME = "org.opencontainers.image.ref.name"
MANIFESTS = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "docker.distribution.manifest.v2+json",
    )
)
Read = Callable[[str], bytes]


def checked(digest: str, content: bytes) -> bytes:
    """Return content that has its digest."""
    algorithm, _, encoded = digest.partition(":")
    assert hashlib.new(algorithm, content).hexdigest() == encoded, digest
    return content


class Layout:
    """A directory as image-layout.md describes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        assert json.loads((path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
        entries = json.loads((path / "index.json").read_bytes())["manifests"]
        self.names = {entry["annotations"][NAME]: entry["digest"] for entry in entries}
        assert len(self.names) == len(entries)

    def blob(self, digest: str) -> bytes:
        """Return a blob."""
        return checked(digest, (self.path / "blobs" / digest.replace(":", "/")).read_bytes())

    def document(self, digest: str) -> dict[str, Any]:
        """Return a manifest."""
        found: dict[str, Any] = json.loads(self.blob(digest))
        return found

    def check(self, digest: str) -> set[str]:
        """Read everything that a manifest needs, and return the digests."""
        document = self.document(digest)
        found = {digest}
        for child in document.get("manifests", ()):
            assert len(self.blob(child["digest"])) == child["size"]
            found |= self.check(child["digest"])

        for blob in [*document.get("layers", ()), *([document["config"]] if "config" in document else [])]:
            assert len(self.blob(blob["digest"])) == blob["size"]
            found.add(blob["digest"])

        return found

    def listed(self) -> set[tuple[str, str]]:
        """Return the subjects and digests of all referrers that lists name; each says so itself."""
        found = set()
        for name, digest in self.names.items():
            if name.startswith("sha256-"):
                for entry in self.document(digest)["manifests"]:
                    subject = self.document(entry["digest"])["subject"]["digest"]
                    assert name == subject.replace(":", "-")
                    self.check(entry["digest"])
                    found.add((subject, entry["digest"]))

        return found

    def tagged(self) -> set[tuple[str, str, str]]:
        """Return repository, tag and digest of all digest tags."""
        found = set()
        for name, digest in self.names.items():
            repository, _, tag = name.rpartition(":")
            if repository and tag.startswith("sha256-"):
                self.check(digest)
                found.add((repository, tag, digest))

        return found


class Remote:
    """A registry at `url` that needs no credentials."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, accept: str = "*/*") -> bytes | None:
        """Return the body of an answer, None for 404."""
        try:
            with urlopen(Request(f"{self.url}/v2/{path}", headers={"Accept": accept})) as answer:
                content: bytes = answer.read()
                return content
        except HTTPError as error:
            if error.code != 404:
                raise

            return None

    def referrers(self, repository: str, digest: str) -> set[str]:
        """Return the digests that the API lists, or else the fallback tag."""
        content = self.get(f"{repository}/referrers/{digest}")
        if content is None:
            content = self.get(f"{repository}/manifests/{digest.replace(':', '-')}", MANIFESTS)

        return {entry["digest"] for entry in json.loads(content)["manifests"]} if content else set()

    def tags(self, repository: str) -> set[str]:
        """Return all tags."""
        content = self.get(f"{repository}/tags/list?n=1000")
        return set(json.loads(content)["tags"]) if content else set()

    def digest(self, repository: str, tag: str) -> str:
        """Return the digest of a tag's manifest, whose content is all there."""
        content = self.get(f"{repository}/manifests/{tag}", MANIFESTS)
        assert content is not None, (repository, tag)
        self._check(repository, json.loads(content))
        return f"sha256:{hashlib.sha256(content).hexdigest()}"

    def _check(self, repository: str, document: dict[str, Any]) -> None:
        for child in document.get("manifests", ()):
            content = self.get(f"{repository}/manifests/{child['digest']}", MANIFESTS)
            assert content is not None
            self._check(repository, json.loads(checked(child["digest"], content)))

        for blob in [*document.get("layers", ()), *([document["config"]] if "config" in document else [])]:
            content = self.get(f"{repository}/blobs/{blob['digest']}")
            assert content is not None
            checked(blob["digest"], content)
