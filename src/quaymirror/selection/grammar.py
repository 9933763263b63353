"""The grammar of organizations, globs and tags.

Names follow Quay's own grammar, which is wider than the OCI distribution-spec's; tags follow the specification. Input
is never unquoted or stripped: text that isn't legal as written is an error of one line with advice.
"""

from __future__ import annotations

from ..oci.reference import is_repository_name, is_tag
from ..values import pattern

_ORGANIZATION = pattern(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_ORGANIZATION_LENGTH = range(2, 256)

# A glob is a sequence of these. Brackets hold only characters of names: `[` or `]` as members, which fnmatch would
# allow, match nothing and are always slips. Upper-case letters are legal, and match no name: case counts.
_GLOB_PARTS = pattern(r"(?:[A-Za-z0-9._/*?-]|\[!?[A-Za-z0-9._/-]+\])+")
_GLOB_CHARACTERS = pattern(r"[A-Za-z0-9._/*?\[\]!-]*")
_GLOB_RANGE = pattern(r"(.)-(.)")
_BRACKETS = pattern(r"\[!?([^]]*)\]")
_REPOSITORY = pattern(r"[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*")
# A repository name has at most 255 characters; brackets make its glob longer, within reason.
_MAX_GLOB = 1_000

_TAG_GLOB_PARTS = pattern(r"(?:[A-Za-z0-9._*?-]|\[!?[A-Za-z0-9._-]+\])+")
_MAX_TAG_GLOB = 500
_WILDCARDS = pattern(r"[*?[]")
_LITERAL = pattern(r"[A-Za-z0-9._-]+")


def is_pattern(text: str) -> bool:
    """Return True if `text` can match anything but itself."""
    return _WILDCARDS.search(text) is not None


def literal_parts(glob: str) -> list[str]:
    """Return the texts that every match of `glob` holds, in order."""
    return _LITERAL.findall(_BRACKETS.sub("*", glob))


def fault_of_organization(text: str) -> str:
    """Return the advice for an illegal name of an organization, '' for a legal one."""
    if not _ORGANIZATION.fullmatch(text):
        return "organizations have lower-case letters, digits, and . _ - between them"

    return "" if len(text) in _ORGANIZATION_LENGTH else "organizations have 2 to 255 characters"


def fault_of_owner(text: str) -> str:
    """Return the advice for an illegal project, namespace, owner or group of another registry, '' for a legal one.

    It is the first part of the names of its repositories.
    """
    if "/" not in text and is_repository_name(f"{text}/x"):
        return ""

    return "names have lower-case letters, digits, and . _ - after the first"


def fault_of_tag(text: str) -> str:
    """Return the advice for an illegal tag or glob for tags, '' for a legal one."""
    if is_tag(text):
        return ""

    if is_pattern(text) and _TAG_GLOB_PARTS.fullmatch(text) and len(text) <= _MAX_TAG_GLOB:
        return _fault_of_ranges(text)

    hint = "tags have 1 to 128 letters, digits, . _ - and don't begin with . or -"
    return f"{hint}; globs for them have * ? and [a-z]" if is_pattern(text) else hint


def fault_of_glob(text: str) -> str:
    """Return the advice for a glob that can match no repository, '' for a legal one."""
    if not text:
        return "write * for every repository"

    if len(text) > _MAX_GLOB:
        return f"write at most {_MAX_GLOB:,} characters"

    if not _GLOB_CHARACTERS.fullmatch(text):
        return "write lower-case letters, digits, . _ - / and the wildcards * ? [a-z] [!a-z]"

    if not all(text.split("/")):
        return "write / only between two parts of a name"

    if not _GLOB_PARTS.fullmatch(text):
        return "write [ and ] in pairs around at least one character, and ! only right after ["

    if not is_pattern(text) and not _REPOSITORY.fullmatch(text):
        return (
            "repositories have lower-case letters, digits, . _ - and /, and each part begins with a letter or a digit"
        )

    return _fault_of_ranges(text)


def _fault_of_ranges(glob: str) -> str:
    """Return the advice for a range that fnmatch would read as an empty one."""
    ranges = (pair for members in _BRACKETS.findall(glob) for pair in _GLOB_RANGE.findall(members))
    backwards = next((f"{first}-{last}" for first, last in ranges if first > last), None)
    return f"write the range {backwards} the other way round" if backwards else ""


def quoted(text: str) -> str:
    """Return `text` for a message: quoted, and cut after 100 characters."""
    return f"{text[:100]!r}{'…' if len(text) > 100 else ''}"
