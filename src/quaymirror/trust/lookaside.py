"""The places of signatures by GPG keys, which registries do not keep: registries.d(5) of podman and skopeo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, from_os_error
from ..oci import Digest
from ..values import dataclass
from ..yaml_text import load_documents
from .names import DockerName

_SYSTEM = Path("/etc/containers/registries.d")
_KEYS = ("lookaside", "sigstore")  # the second is the earlier name of the first
_MOST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Lookasides:
    """The URLs of places with signatures, by the registry, namespace or repository that they are for."""

    by_scope: Mapping[str, str]
    default: str = ""

    def folder(self, name: DockerName, digest: Digest) -> str:
        """Return the URL of the folder with the signatures of a manifest, "" if none is known."""
        scope = name.repository
        while scope and scope not in self.by_scope:
            scope = scope.rpartition("/")[0]

        base = self.by_scope.get(scope, self.default)
        return f"{base.rstrip('/')}/{folder_name(name, digest)}" if base else ""


def folder_name(name: DockerName, digest: Digest) -> str:
    """Return the path of the folder with the signatures of a manifest, below the place for its registry."""
    return f"{name.repository.partition('/')[2]}@{digest.algorithm}={digest.encoded}"


def read_lookasides(environment: Mapping[str, str]) -> Lookasides:
    """Return the places in the files that podman uses: those of the user, if there are any, or those of the system.

    :raises ConfigError: if one of them can't be read.
    """
    home = environment.get("XDG_CONFIG_HOME") or (f"{environment['HOME']}/.config" if environment.get("HOME") else "")
    own = Path(home, "containers", "registries.d")
    directory = own if home and own.is_dir() else _SYSTEM
    by_scope: dict[str, str] = {}
    default = ""
    for document in _documents(directory):
        default = _url(document.get("default-docker")) or default
        scopes = document.get("docker")
        for scope, settings in scopes.items() if isinstance(scopes, dict) else ():
            if url := _url(settings):
                by_scope[str(scope)] = url

    return Lookasides(by_scope, default)


def _documents(directory: Path) -> Iterator[dict[str, Any]]:
    try:
        for file in sorted(directory.glob("*.yaml")):
            with file.open(encoding="utf-8") as stream:
                documents = load_documents(stream.read(_MOST_BYTES), str(file))

            yield from (each for each in documents if isinstance(each, dict))
    except (OSError, ValueError) as error:
        raise from_os_error(error, "read", directory, kind=ConfigError) from None


def _url(settings: object) -> str:
    found = [settings.get(key) for key in _KEYS] if isinstance(settings, dict) else []
    return next((each for each in found if isinstance(each, str) and each), "")
