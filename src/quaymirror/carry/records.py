"""Files below `.quaymirror` of a mirror about exports and imports: small, replaced atomically, removed when not needed.

exports/<id>.json.zst      the manifest of an export that left here
exports/<id>.parts         the numbers of its parts that are written
imports/<id>.json.zst      the manifest of an import that waits for parts
imports/<id>.signer        the allowed signer of that one, if it has verdicts
imports/latest             the time and the identifier of the newest complete import
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..errors import ConfigError
from ..store import fsops
from ..zstd import compress
from .manifest import Manifest, decompress

_LATEST = "latest"
_MAX_SIGNER = 500


class CarryRecords:
    """The records of the mirror at `root`. Methods block, and raise `StoreError` if the disk fails."""

    def __init__(self, root: Path) -> None:
        self._directory = root / ".quaymirror"

    def exports(self) -> Iterator[Manifest]:
        """Iterate over the exports that left here, the newest first; unreadable ones are left out."""
        return self._manifests("exports")

    def add_export(self, manifest: Manifest) -> None:
        """Record an export."""
        self._add("exports", manifest)

    def finished_parts(self, identifier: str, *, directory: str = "exports") -> set[int]:
        """Return the numbers of the parts of an export that are written, or, in `imports`, that were read."""
        text = fsops.read_file(self._directory / directory / f"{identifier}.parts") or b""
        return {int(word) for word in text.split() if word.isdigit()}

    def finish_part(self, identifier: str, part: int, *, directory: str = "exports") -> None:
        """Record that a part is written, or, in `imports`, that it was read."""
        numbers = sorted({*self.finished_parts(identifier, directory=directory), part})
        fsops.replace_file(self._file(directory, f"{identifier}.parts"), " ".join(map(str, numbers)).encode())

    def imports(self) -> list[Manifest]:
        """Return the imports that wait for parts, the oldest first."""
        return sorted(self._manifests("imports"), key=lambda manifest: manifest.created)

    def add_import(self, manifest: Manifest, signer: str) -> None:
        """Record an import that waits for parts.

        `signer` is the allowed signer of `manifest`; without one, "", its verdicts are not recorded.
        """
        if signer and manifest.verdicts:
            fsops.replace_file(self._file("imports", f"{manifest.id}.signer"), signer.encode())

        self._add("imports", manifest if signer else replace(manifest, verdicts={}))

    def signer(self, identifier: str) -> str:
        """Return the allowed signer of an import that waits for parts and has verdicts."""
        text = fsops.read_file(self._directory / "imports" / f"{identifier}.signer", _MAX_SIGNER) or b""
        return text.decode(errors="replace")

    def finish_import(self, manifest: Manifest) -> list[str]:
        """Record that an import is complete; return the identifiers of it and of older ones, which are obsolete."""
        latest = max(self.latest_import(), (manifest.created, manifest.id))
        fsops.replace_file(self._file("imports", _LATEST), f"{latest[0]!r} {latest[1]}\n".encode())
        obsolete = [each.id for each in self.imports() if each.created <= manifest.created]
        for identifier in obsolete:
            for suffix in ("json.zst", "parts", "signer"):
                fsops.remove(self._file("imports", f"{identifier}.{suffix}"))

        return obsolete

    def latest_import(self) -> tuple[float, str]:
        """Return the time and the identifier of the newest complete import, 0.0 and "" if none is."""
        text = fsops.read_file(self._directory / "imports" / _LATEST, 200) or b""
        created, _, identifier = text.decode(errors="replace").strip().partition(" ")
        with suppress(ValueError):
            return float(created), identifier

        return 0.0, ""

    def _add(self, directory: str, manifest: Manifest) -> None:
        fsops.replace_file(self._file(directory, f"{manifest.id}.json.zst"), compress(manifest.to_bytes()))

    def _manifests(self, directory: str) -> Iterator[Manifest]:
        paths = self._files(directory, "*.json.zst")
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            with suppress(ConfigError):
                yield Manifest.parse(decompress(fsops.read_file(path) or b""))

    def _files(self, directory: str, pattern: str) -> list[Path]:
        with fsops.local_errors("read", self._directory / directory):
            return [*(self._directory / directory).glob(pattern)]

    def _file(self, directory: str, name: str) -> Path:
        fsops.make_directory(self._directory / directory)
        return self._directory / directory / name
