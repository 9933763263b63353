"""What `--to` means."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..quay.selection import Selection

_SCHEME = "ocidir://"


def layout_path(target: str, selection: Selection) -> Path:
    """Return the directory of the OCI image layout that `target` (`PATH` or `ocidir://PATH`) names.

    `{org}` and `{tag}` in it are replaced.

    :raises ConfigError: for anything else.
    """
    scheme, separator, _ = target.partition("://")
    if separator and f"{scheme}://" != _SCHEME:
        raise ConfigError(f"--to {scheme}://… is not possible; write a PATH or ocidir://PATH")

    path = target.removeprefix(_SCHEME)
    if not path or "\0" in path:
        raise ConfigError("--to needs the path of a directory")

    if "{repo}" in path:
        raise ConfigError("{repo} in --to: one layout holds all images, which share their layers there; leave it out")

    return Path(path.replace("{org}", selection.organization).replace("{tag}", selection.tag))
