"""Accepted failures: images that are known to fail, so that a run which mirrors all others is a success."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from ..auth.files import read_config_file
from ..errors import ConfigError, CredentialsRefused, Failure, Scope, StoreError
from ..events import CheckFailed, Outcome, Status
from ..text import escape_controls
from ..values import dataclass, pattern

_MAX_BYTES = 16 * 1024 * 1024
_REFERENCE = pattern(r"[A-Za-z0-9._/*?\[\]!:@-]+")


@dataclass(frozen=True, slots=True)
class AcceptedFailures:
    """The `patterns` of a file, one reference per line, in which `*`, `?` and `[…]` are wildcards."""

    file: Path | None = None
    patterns: tuple[str, ...] = ()

    def covers(self, failed: Outcome | CheckFailed) -> bool:
        """Return True if the failure of an image, or of the check of its repository, is accepted.

        Failures of this machine, and those that end the run, never are.
        """
        error = failed.error
        return error is not None and _is_of_image(error) and self.names(failed)

    def names(self, image: Outcome | CheckFailed) -> bool:
        """Return True if the file names `image`, with or without its registry."""
        if not self.patterns:
            return False

        full = f"{image.repository}:{image.tag}" if isinstance(image, CheckFailed) else image.reference.full_name
        names = (full, full.partition("/")[2])
        return any(fnmatchcase(name, pattern) for pattern in self.patterns for name in names)

    def recovered(self, outcomes: Iterable[Outcome]) -> list[str]:
        """Return the names of images that the file names, and that did not fail."""
        good = (Status.MIRRORED, Status.UNCHANGED)
        return sorted(outcome.reference.name for outcome in outcomes if outcome.status in good and self.names(outcome))


def read_accepted(file: Path | None) -> AcceptedFailures:
    """Return the accepted failures in `file`; none without a file.

    :raises ConfigError: if it can't be read, or a line is not a reference.
    """
    if file is None:
        return AcceptedFailures()

    patterns = []
    for number, line in enumerate(read_config_file(file, limit=_MAX_BYTES).splitlines(), 1):
        text = line.partition(b"#")[0].strip().decode(errors="replace")
        if not text:
            continue

        name = text.rpartition("/")[2]
        if not _REFERENCE.fullmatch(text) or not re.search("[:@*]", name):
            shown = escape_controls(text[:100])
            raise ConfigError(f"{file}, line {number}: not a reference: {shown!r}; write ORG/REPO:TAG, with * and ?")

        patterns.append(text)

    return AcceptedFailures(file, tuple(patterns))


def _is_of_image(error: Failure) -> bool:
    return error.scope is not Scope.RUN and not error.is_a(StoreError, CredentialsRefused)
