"""Texts of options: their meaning, or the reason why they are refused."""

from __future__ import annotations

import re
import shlex

from ..errors import ConfigError
from ..http.origin import Origin, without_user
from ..oci.reference import is_tag
from ..selection.parse import parse_duration
from ..values import pattern

WEEK = 7 * 86_400.0
_MAX_ARTIFACT_TYPE = 255
_HOST = pattern(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_FILTER = pattern(r"[a-z][a-z0-9-]*(?:[:?].*)?")
_NOTHING = pattern("0+[smhdw]?")
_RATE = pattern(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)\s?([KMGTkmgt])?(?:i?[Bb])?(?:/s)?")


def parse_rate(text: str) -> int:
    """Return the bytes per second that `text` says: `500K`, `20M`, `1.5 MiB`, `10MB/s`; units are powers of 1024.

    :raises ConfigError: if it is not a rate.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"not a rate: {text[:50]!r}; write bytes per second, such as 500K, 20M or 1G")

    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))


def seconds(text: str) -> float:
    """Return the seconds of a duration such as `7d`.

    :raises ConfigError: if it is not one.
    """
    return parse_duration(text).total_seconds()


def seconds_or_none(text: str) -> float:
    """Return the seconds of a duration, which may be 0.

    :raises ConfigError: if it is not one.
    """
    return 0.0 if _NOTHING.fullmatch(text) else seconds(text)


def check_ping_url(text: str) -> None:
    """Raise `ConfigError` if `text` is not a URL of HTTP."""
    if not text.startswith(("https://", "http://")):
        raise ConfigError("must begin with https:// or http://")

    try:
        Origin.of(without_user(text)[0])
    except ValueError as error:
        raise ConfigError(f"not a usable URL: {error}") from None


def check_command(text: str) -> None:
    """Raise `ConfigError` if `text` is not a command."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"not a command: {str(error).lower()}") from None

    if not words:
        raise ConfigError("not a command: it is empty")


def check_label(text: str) -> None:
    """Raise `ConfigError` if `text` is not a label of a snapshot."""
    if not text.strip() or len(text) > 100 or not text.isprintable():
        raise ConfigError("not a label: write up to 100 printable characters")


def check_dated_tags(text: str) -> None:
    """Raise `ConfigError` if `text` is not a template of tags with a date."""
    example = text.replace("{tag}", "latest").replace("{date}", "2026-03-03")
    if not {"{tag}", "{date}"} <= set(re.findall(r"\{[^}]*\}", text)) or not is_tag(example):
        raise ConfigError(f"not a template of tags: {text[:100]!r}; write {{tag}}-{{date}}")


def check_artifact_type(text: str) -> None:
    """Raise `ConfigError` if `text` is neither a media type nor a glob for them."""
    if not text or len(text) > _MAX_ARTIFACT_TYPE or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"not a media type or a glob for them: {text[:100]!r}; write 'application/spdx*'")


def check_realm(text: str) -> None:
    """Raise `ConfigError` if `text` is no HOST[:PORT]."""
    if not _HOST.fullmatch(text):
        raise ConfigError(f"not a host: {text[:100]!r}; write HOST or HOST:PORT")


def check_filter(text: str) -> None:
    """Raise `ConfigError` if `text` is not a filter of occystrap."""
    if not _FILTER.fullmatch(text):
        raise ConfigError(f"not a filter: {text[:100]!r}; write NAME or NAME:KEY=VALUE")
