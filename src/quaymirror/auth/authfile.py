"""Auth files of podman and docker (containers-auth.json(5), docker's `config.json`): read, never written."""

from __future__ import annotations

import base64
import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError
from ..secret import Credentials, Secret
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass, pattern
from .files import read_small_file

__all__ = ["AuthFile", "normalize_registry", "normalize_server"]

FILE_LIMIT: Final = 1024 * 1024

# Explicitly ASCII: IGNORECASE and lower() would take U+212A, the Kelvin sign, for a k.
_REGISTRY = pattern(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LEGACY_SERVER = pattern(r"(https?)://([^/]+)(?:/|/v[12]/?)?")


def normalize_registry(text: str) -> str | None:
    """Return `text`, a `host[:port]`, in lower case and without HTTPS's own port; None if it is something else.

    Two registries are the same only if these are equal: never by prefix or suffix.
    """
    return text.lower().removesuffix(":443") if _REGISTRY.fullmatch(text) else None


def normalize_server(text: str) -> str | None:
    """Return the registry that `text`, a `host[:port]` or docker's `https://host/v1/`, stands for, or None."""
    legacy = _LEGACY_SERVER.fullmatch(text)
    if legacy is None:
        return normalize_registry(text)

    scheme, registry = legacy.groups()
    if scheme == "http" and not re.search(r":[0-9]+$", registry):
        registry += ":80"

    return normalize_registry(registry)


@dataclass(frozen=True, slots=True)
class AuthFile:
    """The content of one auth file, its keys normalized."""

    path: Path
    helpers: Mapping[str, str]
    default_helper: str
    entries: Mapping[str, Any] = field(repr=False)
    legacy_entries: Mapping[str, Any] = field(repr=False)

    @classmethod
    def load(cls, path: Path, *, is_required: bool) -> AuthFile | None:
        """Return the file at `path`, or None if it doesn't exist and is not required. Blocks.

        :raises ConfigError: naming the file: required and missing, unreadable, over 1 MiB, bad JSON, wrong types.
        """
        file = read_small_file(path, limit=FILE_LIMIT)
        if file is not None:
            return cls._parse(file.data, path)

        if is_required:
            raise ConfigError(f"can't read {str(path)!r}: no such file or directory")

        return None

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> AuthFile:
        try:
            document = parse_object(data.removeprefix(codecs.BOM_UTF8), limit=FILE_LIMIT)
        except InvalidDocument as error:
            raise ConfigError(f"auth file {str(path)!r} {error}") from None

        entries, legacy_entries = _index(_table(document, "auths", path))
        helpers = _table(document, "credHelpers", path)
        default_helper = document.get("credsStore") or ""
        if not all(isinstance(name, str) for name in (default_helper, *helpers.values())):
            raise ConfigError(f"auth file {str(path)!r}: the name of a credential helper is not a string")

        by_registry = {normalize_server(key): name for key, name in helpers.items()}
        known = {key: name for key, name in by_registry.items() if key is not None}
        return cls(path, known, default_helper, entries, legacy_entries)

    def helpers_for(self, registry: str) -> tuple[str, ...]:
        """Return the helpers to ask about `registry` (normalized), in order: `credHelpers`, then `credsStore`.

        As in docker, an empty name in `credHelpers` means that no helper knows this registry.
        """
        own = self.helpers.get(registry)
        if own == "":
            return ()

        names = (own, self.default_helper)
        return tuple(name for name in names if name)

    def inline_credentials(self, registry: str, repository: str | None) -> Credentials | None:
        """Return the credentials in `auths` for `repository` of `registry` (normalized), by the longest matching key.

        :raises ConfigError: naming the file and the entry: an entry that is not valid.
        """
        for key, entry in self._matching(registry, repository):
            credentials = _read_entry(entry, f"auth file {str(self.path)!r}, entry for {key}")
            if credentials is not None:
                return credentials

        return None

    def _matching(self, registry: str, repository: str | None) -> Iterator[tuple[str, Any]]:
        parts = repository.split("/") if repository else []
        for length in range(len(parts), -1, -1):
            key = "/".join((registry, *parts[:length]))
            if key in self.entries:
                yield key, self.entries[key]

        if registry in self.legacy_entries:
            yield registry, self.legacy_entries[registry]


def _table(document: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = document.get(key)
    if table is None:
        return {}

    if not isinstance(table, dict):
        raise ConfigError(f"auth file {str(path)!r}: {key} is not an object")

    return table


def _index(auths: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entries by `host[:port][/path]`, and those of docker's URL-like keys by `host[:port]`."""
    plain: dict[str, Any] = {}
    legacy: dict[str, Any] = {}
    for key, entry in auths.items():
        host, slash, path = key.partition("/")
        registry = normalize_registry(host)
        if registry is not None:
            normal = f"{registry}{slash}{path}"
            # Of two spellings of one registry, the normal one wins.
            plain[normal] = entry if key == normal else plain.get(normal, entry)
        elif (server := normalize_server(key)) is not None:
            legacy.setdefault(server, entry)

    return plain, legacy


def _read_entry(entry: object, where: str) -> Credentials | None:
    """Return the credentials of one entry; None for an empty one, which means that a helper has them."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: not an object")

    names = ("auth", "identitytoken", "username", "password", "registrytoken")
    fields = {name: entry[name] for name in names if entry.get(name)}
    if not all(isinstance(value, str) for value in fields.values()):
        raise ConfigError(f"{where}: a field is not a string")

    # An identity token comes beside an `auth` with an empty password, so it is first.
    if "identitytoken" in fields:
        return Credentials.identity_token(Secret(fields["identitytoken"], what=f"{where}: identitytoken"), source=where)

    if "auth" in fields:
        return _decode_auth(fields["auth"], where)

    if "username" in fields and "password" in fields:
        return _credentials(fields["username"], fields["password"], where)

    if fields:
        raise ConfigError(f"{where}: neither auth nor identitytoken, and no user name with a password")

    return None


def _decode_auth(auth: str, where: str) -> Credentials:
    try:
        pair = base64.b64decode(auth, validate=True).decode(errors="surrogateescape")
    except ValueError:
        pair = ""

    username, colon, password = pair.partition(":")
    if not colon:
        raise ConfigError(f"{where}: auth is not base64 of user:password")

    return _credentials(username, password.rstrip("\0"), where)


def _credentials(username: str, password: str, where: str) -> Credentials:
    secret = Secret(password, what=f"{where}: the password")
    try:
        return Credentials(username, secret, where)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from None
