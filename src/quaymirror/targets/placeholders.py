"""The placeholders in addresses of targets: `{org}`, `{repo}` and `{tag}` stand for those of each image."""

from __future__ import annotations

from collections.abc import Mapping


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders of `text` that have `values`, such as `{"{org}": "kolla"}`.

    The slash after a placeholder with an empty value is left out, too.
    """
    for placeholder, value in values.items():
        text = (text if value else text.replace(f"{placeholder}/", "")).replace(placeholder, value)

    return text


def values_of(name: str) -> dict[str, str]:
    """Return the values for the image called `name` (`kolla/nova-api:2025.1-debian`)."""
    full_name, _, tag = name.rpartition(":")
    organization, slash, repository = full_name.partition("/")
    if not slash:
        organization, repository = "", full_name

    return {"{org}": organization, "{repo}": repository, "{tag}": tag}
