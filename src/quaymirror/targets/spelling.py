"""Targets that are spelt as other tools spell them: they would become directories of these names."""

from __future__ import annotations

import os
import re

from ..errors import ConfigError
from ..values import pattern

# The transports of skopeo and podman, with our spelling.
_TRANSPORTS = {
    "oci": "ocidir://{0}",
    "oci-archive": "ocidir://{0}",
    "dir": "dir://{0}",
    "docker-archive": "tar://{0}/{{repo}}-{{tag}}.tar",
    "docker-daemon": "docker://",
    "containers-storage": "docker://?socket=PATH",
    "docker": "registry://{0}",
    "registry": "registry://{0}",
    "ocidir": "ocidir://{0}",
    "s3": "s3://{0}",
}
_TRANSPORT = pattern(rf"({'|'.join(_TRANSPORTS)}):(?!//)(.*)", re.DOTALL)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_WITH_PORT = pattern(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\]):[0-9]{{1,5}}(?:/.*)?", re.DOTALL)
_HOST = pattern(rf"{_LABEL}(?:\.{_LABEL})+/.*", re.DOTALL)
_DAEMON = "docker://"


def check_spelling(text: str, *, base: str = "") -> None:
    """Check that the target `text` is not one that another tool would read as something else.

    A path that exists is one, and so is a path that begins with `/`, `.` or `~`. Relative ones start at `base`.

    :raises ConfigError: for such a target, with the right spelling.
    """
    if text.startswith(_DAEMON) and text.removeprefix(_DAEMON).partition("?")[0].strip("/"):
        right = text.removeprefix(_DAEMON).rstrip("/")
        raise _mistake(text, "docker:// is the daemon of this machine", f"registry://{right} for a registry")

    if "://" in text or text.startswith(("/", ".", "~")) or os.path.lexists(os.path.join(base, text)):  # noqa: PTH118
        return

    if found := _TRANSPORT.fullmatch(text):
        right = _TRANSPORTS[found[1]].format(found[2].lstrip("/") if found[1] == "docker" else found[2])
        raise _mistake(text, "targets are addresses or paths", f"{right}, or ./{text} for a directory of that name")

    if _WITH_PORT.fullmatch(text):
        raise _mistake(text, "that is a host with a port", f"registry://{text}, or ./{text} for a directory")

    parent = text.partition("/")[0]
    if _HOST.fullmatch(text) and not os.path.lexists(os.path.join(base, parent)):  # noqa: PTH118
        raise _mistake(text, f"{parent} looks like a registry", f"registry://{text}, or ./{text} for a directory")


def _mistake(text: str, why: str, right: str) -> ConfigError:
    return ConfigError(f"not a target: {text[:100]!r}: {why}; write {right[:300]}")
