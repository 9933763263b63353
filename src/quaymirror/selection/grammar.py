"""The grammar of organizations, globs and tags.

Names follow Quay's own grammar, which is wider than the OCI distribution-spec's; tags follow the specification. Input
is never unquoted or stripped: text that isn't legal as written is an error of one line that says what to write.
"""

from __future__ import annotations

import re

from ..errors import ConfigError
from ..oci.reference import is_tag

_ORGANIZATION = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ORGANIZATION_LENGTH = range(2, 256)

# A glob is a sequence of these. Brackets hold only characters of names: `[` or `]` as members, which fnmatch would
# allow, match nothing and are always slips. Upper-case letters are legal, and match no name: case counts.
_GLOB_PARTS = re.compile(r"(?:[A-Za-z0-9._/*?-]|\[!?[A-Za-z0-9._/-]+\])+")
_GLOB_CHARACTERS = re.compile(r"[A-Za-z0-9._/*?\[\]!-]*")
_GLOB_RANGE = re.compile(r"(.)-(.)")
_BRACKETS = re.compile(r"\[!?([^]]*)\]")
# A repository name has at most 255 characters; brackets make its glob longer, within reason.
_MAX_GLOB = 1_000

# No `?`: after the tag it begins the query of an address.
_TAG_GLOB_PARTS = re.compile(r"(?:[A-Za-z0-9._*-]|\[!?[A-Za-z0-9._-]+\])+")
_MAX_TAG_GLOB = 500
_WILDCARDS = re.compile(r"[*?[]")


def is_pattern(text: str) -> bool:
    """Return True if `text` can match anything but itself."""
    return _WILDCARDS.search(text) is not None


def check_organization(text: str) -> None:
    """Check the name of an organization.

    :raises ConfigError: if it is illegal.
    """
    if not _ORGANIZATION.fullmatch(text):
        hint = "organizations have lower-case letters, digits, and . _ - between them"
    elif len(text) not in _ORGANIZATION_LENGTH:
        hint = "organizations have 2 to 255 characters"
    else:
        return

    raise ConfigError(f"not an organization name: {quoted(text)}; {hint}")


def check_tag(text: str) -> None:
    """Check a tag or a glob for tags.

    :raises ConfigError: if it is illegal.
    """
    is_glob = is_pattern(text) and _TAG_GLOB_PARTS.fullmatch(text) and len(text) <= _MAX_TAG_GLOB
    backwards = _backwards(text) if is_glob else None
    if backwards is not None:
        raise ConfigError(f"not a tag: {quoted(text)}; write the range {backwards} the other way round")

    if not is_glob and not is_tag(text):
        raise ConfigError(
            f"not a tag: {quoted(text)}; tags have 1 to 128 letters, digits, . _ - and don't begin with . or -"
            + ("; globs for them have * and [a-z]" if is_pattern(text) else "")
        )


def check_glob(text: str, kind: str) -> None:
    """Check a glob for repositories; messages call it `kind`.

    :raises ConfigError: if it is illegal, or can match no repository.
    """
    hint = _fault_of_glob(text)
    if hint:
        raise ConfigError(f"not a valid {kind}: {quoted(text)}; {hint}")


def _fault_of_glob(text: str) -> str:
    """Return the advice for a glob that can match no repository, '' for a valid one."""
    if not text:
        return "write * for every repository"

    if len(text) > _MAX_GLOB:
        return f"write at most {_MAX_GLOB:,} characters"

    if not _GLOB_CHARACTERS.fullmatch(text):
        return "write lower-case letters, digits, . _ - / and the wildcards * ? [a-z] [!a-z]"

    if text.startswith("/") or text.endswith("/") or "//" in text:
        return "write / only between two parts of a name"

    if not _GLOB_PARTS.fullmatch(text):
        return "write [ and ] in pairs around at least one character, and ! only right after ["

    backwards = _backwards(text)
    return f"write the range {backwards} the other way round" if backwards else ""


def _backwards(glob: str) -> str | None:
    """Return a range that fnmatch would read as an empty one."""
    ranges = (pair for members in _BRACKETS.findall(glob) for pair in _GLOB_RANGE.findall(members))
    return next((f"{first}-{last}" for first, last in ranges if first > last), None)


def quoted(text: str) -> str:
    """Return `text` for a message: quoted, and cut after 100 characters."""
    return f"{text[:100]!r}{'…' if len(text) > 100 else ''}"
