"""The base class of errors, their properties, and errors as values."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from enum import Enum, IntEnum
from functools import partial
from typing import Any, ClassVar, Self, TypedDict, TypeVar, Unpack

from ..values import dataclass


class ExitCode(IntEnum):
    """The exit codes of the command line, the most severe first; the only table of their meaning and advice."""

    meaning: str
    advice: str

    def __new__(cls, code: int, meaning: str = "", advice: str = "") -> Self:
        """Return the member for a line of the table."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.advice = advice
        return member

    INTERNAL = 1, "internal error", "please report it, with the output of QUAYMIRROR_DEBUG=1"
    TERMINATED = 143, "terminated"
    INTERRUPTED = 130, "interrupted"
    DAMAGED = 8, "the mirror is damaged", "run quaymirror verify to see what is damaged"
    STORAGE = (
        6,
        "local storage failed",
        "disk full: free some space; another limit: raise it; finished images are safe",
    )
    CREDENTIALS = (
        4,
        "credentials rejected, or access denied to everything selected",
        "for private repositories pass --username or --authfile",
    )
    UNAVAILABLE = 5, "source or target unavailable, or incomplete discovery"
    LOCKED = 7, "another run holds the lock", "wait for the other run to end; sync, run and push do with --wait"
    USAGE = 2, "usage or configuration error"
    PARTIAL = 3, "partial: some images failed or are missing", "run it again: the next run retries them"
    EMPTY = 9, "nothing matched", "see what the source offers with quaymirror list"
    OK = 0, "success"

    @property
    def severity(self) -> int:
        """The rank of this code: 0 is the most severe."""
        return _SEVERITY[self]


_TARGET_ACCESS = "for the target pass --dest-username or --authfile, with an account that may push there"
# Of broken and missing content; targets and mirrors have other advice.
BROKEN_AT_SOURCE = "for images that stay broken at the source pass --exclude or --accept-failed"
# What a server does not take today, it does not take tomorrow.
_LASTING_STATUSES = frozenset({405, 409, 410, 411, 413, 414, 415, 422, 451})
_SEVERITY = {code: rank for rank, code in enumerate(ExitCode)}


class Scope(Enum):
    """The reach of an error."""

    ATTEMPT = "attempt"
    """Another attempt can succeed."""
    IMAGE = "image"
    """This image fails; the others are not affected."""
    RUN = "run"
    """Nothing else of this run can succeed: stop."""


class Side(Enum):
    """The side on which an error happened."""

    SOURCE = "source"
    TARGET = "target"
    STORE = "store"


class Phase(Enum):
    """The step during which an error happened."""

    DISCOVER = "discover"
    RESOLVE = "resolve"
    FETCH = "fetch"
    STORE = "store"
    COMMIT = "commit"


class _Properties(TypedDict, total=False):
    """The properties of an error; None stands for the default of its class."""

    scope: Scope | None
    side: Side | None
    phase: Phase | None
    status: int | None
    codes: frozenset[str] | None
    retry_after: float | None
    retries: int | None


class QuaymirrorError(Exception):
    """The base of all errors that are raised on purpose: one line for a person, properties for the program.

    Each class has defaults for its properties; the caller passes those that it knows better. `status` is the HTTP
    status (0 without an answer that matters), `codes` are the error codes of the registry, such as `BLOB_UNKNOWN`
    (OCI distribution-spec, "Error Codes"), `retry_after` is the pause in seconds that the server asked for, if any.
    `retries` limits the retries after errors of this class in one operation, None if only the policy does.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.UNAVAILABLE
    advice: ClassVar[str] = ""
    is_lasting: ClassVar[bool] = False
    """True if the next run fails in the same way, unless its options, the source or the target change."""

    scope: Scope = Scope.IMAGE
    side: Side = Side.SOURCE
    phase: Phase | None = None
    status: int = 0
    codes: frozenset[str] = frozenset()
    retry_after: float | None = None
    retries: int | None = None

    def __init__(self, message: str, **properties: Unpack[_Properties]) -> None:
        super().__init__(message)
        vars(self).update((name, value) for name, value in properties.items() if value is not None)

    def __setattr__(self, name: str, value: object) -> None:
        # Python sets the traceback, the cause and notes.
        if not name.startswith("__"):
            raise AttributeError(f"errors are immutable: use replace({name}=...)")

        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self._given()), self.args

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("__")}

    @property
    def message(self) -> str:
        """The one line."""
        return str(self.args[0])

    def replace(self, message: str | None = None, **changes: Any) -> Self:
        """Return a new error of the same class with `changes`, without traceback and context."""
        return type(self)(self.message if message is None else message, **{**self._given(), **changes})


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a value: it holds no traceback, can be stored for a whole run, and raises a fresh error each time."""

    kind: type[QuaymirrorError]
    message: str
    scope: Scope
    side: Side
    phase: Phase | None = None
    status: int = 0
    codes: frozenset[str] = frozenset()
    retry_after: float | None = None
    retries: int | None = None

    @classmethod
    def of(cls, error: QuaymirrorError, *, phase: Phase | None = None) -> Failure:
        """Return the value of `error`; `phase` is used if the error doesn't know its own."""
        properties = {name: getattr(error, name) for name in _Properties.__annotations__}
        return cls(type(error), error.message, **properties | {"phase": error.phase or phase})

    def error(self) -> QuaymirrorError:
        """Return a new exception with the properties of this failure."""
        properties: Any = {name: getattr(self, name) for name in _Properties.__annotations__}
        return self.kind(self.message, **properties)

    def __str__(self) -> str:
        return self.message

    def is_a(self, *kinds: type[QuaymirrorError]) -> bool:
        """Return True if the error is an instance of one of `kinds`."""
        return issubclass(self.kind, kinds)

    @property
    def name(self) -> str:
        """The name of the error's class, as reports show it."""
        return self.kind.__name__

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that ends with this error."""
        return self.kind.exit_code

    @property
    def is_lasting(self) -> bool:
        """True if the next run fails in the same way, unless its options, the source or the target change."""
        return self.kind.is_lasting or self.status in _LASTING_STATUSES

    @property
    def advice(self) -> str:
        """Advice on what to do next, "" if nothing in particular."""
        advice = self.kind.advice or (self.exit_code.advice if self.scope is Scope.RUN else "")
        if self.side is not Side.SOURCE and advice == BROKEN_AT_SOURCE:
            return ""

        if self.side is Side.TARGET and advice == ExitCode.CREDENTIALS.advice:
            # With 403, other credentials help less often: the reason can be a quota.
            return "" if self.status == 403 else _TARGET_ACCESS

        return advice


T = TypeVar("T", ExitCode, QuaymirrorError, Failure)
E = TypeVar("E", bound=QuaymirrorError)


def most_severe(items: Iterable[T]) -> T:
    """Return the most severe of one or more `items`; the first one of equals.

    Exit codes are ordered as in their table. An error that ends the run comes before one that does not, then errors
    are ordered by their exit codes.
    """
    return min(items, key=_rank)


def _rank(item: ExitCode | QuaymirrorError | Failure) -> tuple[bool, int]:
    if isinstance(item, ExitCode):
        return False, item.severity

    return item.scope is not Scope.RUN, item.exit_code.severity


_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EPERM: "permission denied",
    errno.EIO: "input/output error",
    errno.EMFILE: "too many open files: see ulimit -n",
    errno.ENXIO: "a pipe that no process reads",
    errno.ENOMEM: "there is not enough memory",
    errno.EAGAIN: "can't start a thread or a process: too many of them, or not enough memory",
}


_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


def is_lack(error: BaseException | None) -> bool:
    """Return True if `error` or its cause is a lack of descriptors or memory, which says nothing of a file or host."""
    if isinstance(error, QuaymirrorError):
        error = error.__cause__

    return isinstance(error, OSError) and error.errno in _LACKS


def reason_of(error: OSError) -> str:
    """Return what the operating system says of `error`, in our words where they say more."""
    return _REASONS.get(error.errno or 0, (error.strerror or type(error).__name__).lower())


def from_os_error(
    error: OSError | ValueError, doing: str, path: object, *, kind: type[E], phase: Phase | None = None
) -> E:
    """Return the error of class `kind` for a file operation that failed: `can't read /x: permission denied`.

    A ValueError is what Python raises for a path that no file can have.
    """
    reason = reason_of(error) if isinstance(error, OSError) else "not a valid path"

    text = str(path)
    return kind(f"can't {doing} {text if text.isprintable() else repr(text)}: {reason}", phase=phase)
