"""The paths of mirrors that are there."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError, from_os_error
from ..selection.bucket import is_bucket
from ..settings import Options


def layout_path(target: str, options: Options | None = None) -> Path:
    """Return the path of the mirror called `target`: a path or `ocidir://PATH`.

    For a mirror in an object store it is the directory of its state, as `options` or the environment say. It blocks.

    :raises ConfigError: if no layout is there, or the place can't be looked at.
    :raises StoreError: if the object store fails.
    """
    if is_bucket(target):
        from ..targets.bucket import locate_bucket  # all kinds of targets come with it

        return locate_bucket(target, options or Options.of(environment=os.environ))

    path = Path(target.removeprefix("ocidir://"))
    try:
        is_layout = (path / "oci-layout").is_file()
    except (OSError, ValueError) as error:
        raise from_os_error(error, "read", path, kind=ConfigError) from None

    if not is_layout:
        raise ConfigError(f"no OCI image layout at {path}")

    return path
