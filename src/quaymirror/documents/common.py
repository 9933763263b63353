"""Values that several documents have, and the base class of all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NotRequired

from ..errors import Failure, Phase, Side

if TYPE_CHECKING:
    from typing import TypedDict as TypedDict
else:

    class TypedDict(dict):
        """The type of a dictionary, for type checkers; without the original's knowledge of its keys it starts fast."""


Time = Annotated[str, "date-time"]


class SelectionJson(TypedDict):
    """A selection. `glob` and `tag` are separated by commas; `locked` is the number of images of a lock file.

    `source` is the address of its source, if that is not the Quay server; then `organization` may be empty. `images`
    are those of a list, each `repository:tag`. `reading` says how a name with a dot was read.
    """

    organization: str
    glob: str
    tag: str
    exclude: list[str]
    since: Time | None
    locked: int
    source: NotRequired[str]
    exclude_tags: NotRequired[list[str]]
    newest: NotRequired[int]
    labels: NotRequired[list[str]]
    images: NotRequired[list[str]]
    reading: NotRequired[str]


class ErrorJson(TypedDict):
    """An error: the name of its class, one line, the side it came from, and the step during which it happened."""

    type: str
    message: str
    side: Annotated[str, Side]
    phase: Annotated[str, Phase] | None


class FilesJson(TypedDict):
    """A number of files and their size."""

    files: int
    bytes: int


class BlobsJson(TypedDict):
    """A number of blobs and their size."""

    blobs: int
    bytes: int


def iso(moment: float) -> str:
    """Return a POSIX time as text."""
    return datetime.fromtimestamp(moment, UTC).isoformat()


def error_json(error: Failure | None) -> ErrorJson | None:
    """Return an error as JSON values, None for none."""
    if error is None:
        return None

    phase = error.phase.value if error.phase else None
    return {"type": error.name, "message": error.message, "side": error.side.value, "phase": phase}
