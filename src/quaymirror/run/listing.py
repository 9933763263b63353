"""Listings that show public repositories only, because no API token was given."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import CredentialsRefused
from ..selection.selection import Selection
from ..settings import Options
from .wiring import Accounts

_HINT = "Quay's API takes an API token only (--token-file), no user, robot account or auth file"
_ROBOT = "these need an API token (--token-file), or the robot account of the organization in the auth file"


def check(selections: Sequence[Selection], options: Options) -> None:
    """Check that the listings show private repositories if the options require it.

    :raises CredentialsRefused: if a listing would be anonymous.
    """
    organizations = _anonymous(selections, options)
    if options.discovery.require_private and organizations:
        raise CredentialsRefused(
            f"--require-private: the listing of {', '.join(organizations)} would be anonymous, "
            f"without private repositories: {_HINT}"
        )


async def anonymous(selections: Sequence[Selection], options: Options, accounts: Accounts) -> str:
    """Return the note that listings are anonymous although an auth file is given, "" otherwise."""
    if options.client.authfile is None:
        return ""

    found = _anonymous(selections, options)
    organizations = [organization for organization in found if not await accounts.has(organization)]
    if not organizations:
        return ""

    return f"the listing of {', '.join(organizations)} is anonymous: it has no private repositories; {_ROBOT}"


def _anonymous(selections: Sequence[Selection], options: Options) -> list[str]:
    if options.source.api_token is not None:
        return []

    listed = (selection for selection in selections if selection.source is None and not selection.pinned)
    return list(dict.fromkeys(selection.organization for selection in listed))
