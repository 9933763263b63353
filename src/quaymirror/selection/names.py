"""Patterns of the names in a mirror: `kolla/nova-*:2025.1-*`."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..errors import ConfigError
from .grammar import fault_of_glob, quoted


def match_names(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return those of `names` that match any of `patterns`, sorted. A pattern without a tag matches every tag.

    :raises ConfigError: if a pattern is not valid.
    """
    parsed = [_parsed(pattern) for pattern in patterns]
    return sorted(
        name
        for name in names
        if any(fnmatchcase(_split(name)[0], glob) and fnmatchcase(_split(name)[1], tag) for glob, tag in parsed)
    )


def _parsed(pattern: str) -> tuple[str, str]:
    glob, tag = _split(pattern)
    fault = fault_of_glob(glob)
    if fault or not tag or not tag.isprintable():
        raise ConfigError(f"{quoted(pattern)} is no pattern of names{f': {fault}' if fault else ''}; write GLOB:TAG")

    return glob, tag


def _split(name: str) -> tuple[str, str]:
    glob, colon, tag = name.rpartition(":")
    return (glob, tag) if colon else (name, "*")
