"""Hints for mistakes that the command line alone shows: moved options, wildcards without quotes, unknown variables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import click

from ..values import pattern

_EXCESS = "{} does what it says without --yes; beyond --max-delete it needs --ignore-max-delete"
# Options that a command does not have, by command and option.
_OPTIONS = {
    ("sync", "--yes"): _EXCESS.format("sync"),
    ("run", "--yes"): _EXCESS.format("run"),
    ("demo", "--images"): "write --count N",
    ("sync", "--dest"): "write --to TARGET",
    ("sync", "--target"): "write --to TARGET",
    ("sync", "--tags"): "write --tag TAG, once per tag",
    ("sync", "--src"): "write --server URL for the Quay server",
    ("sync", "--all"): "images of all platforms are mirrored; --platform OS/ARCH narrows that",
    ("sync", "--insecure"): "write --server http://HOST for plain HTTP, or --tls-verify false",
    ("sync", "--jobs"): "write --concurrency N",
    ("sync", "--delete"): "write --prune",
    ("prune", "--force"): "write --yes, and --ignore-max-delete to exceed the limit",
    ("prune", "--dry-run=false"): "write --yes",
}
_WORDS = pattern(r"\((.*)\)", re.DOTALL)
_QUOTE = "quote wildcards, or the shell replaces them by the names of files here: '*'"
_PREFIX = "QUAYMIRROR_"
# The last one is set for --notify-command, which may run quaymirror.
_OTHER_VARIABLES = ("QUAYMIRROR_DEBUG", "QUAYMIRROR_EXIT_CODE")


def hint_of(error: click.UsageError) -> str:
    """Return the next step for a mistake on the command line, '' if none is known."""
    name = error.ctx.info_name if error.ctx is not None else None
    if isinstance(error, click.NoSuchOption):
        return _OPTIONS.get((name or "", error.option_name), "")

    if error.ctx is not None and "unexpected extra argument" in error.message:
        found = _WORDS.search(error.message)
        given = [*(found[1].split() if found else ()), *(str(value) for value in error.ctx.params.values() if value)]
        return _QUOTE if any(map(os.path.lexists, given)) else ""

    return ""


def unquoted_wildcard(words: Iterable[str | None]) -> str:
    """Return a hint if one of `words`, globs and tags, is the name of a file here: a `*` may have become it."""
    named = [word for word in words if word and os.path.lexists(word)]
    return f"{named[0]!r} is also the name of a file here: if you wrote a wildcard, {_QUOTE}" if named else ""


def unknown_variables() -> list[str]:
    """Return a line for each environment variable that looks like one of quaymirror's and is none."""
    given = sorted(name for name in os.environ if name.startswith(_PREFIX) and name not in _OTHER_VARIABLES)
    if not given:
        return []

    from difflib import get_close_matches

    from ..settings.register import REGISTER

    known = {name for spec in REGISTER.values() for name in spec.all_variables if name.startswith(_PREFIX)}
    lines = []
    for name in given:
        if name not in known:
            nearest = get_close_matches(name, sorted(known), 1, 0.6)
            lines.append(f"{name} is unknown and has no effect{f'; did you mean {nearest[0]}?' if nearest else ''}")

    return lines
