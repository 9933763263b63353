"""Signature policies in the format of podman, skopeo and CRI-O: containers-policy.json(5).

A policy is read strictly, as they read it: an unknown key would be a rule that is not followed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, from_os_error
from ..oci import Reference
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .identity import KINDS, SignedIdentity
from .names import DockerName, parse_name
from .requirements import AcceptAnything, KeyFile, Reject, Requirement, SignedByGPG, SignedByIdentity, SignedByKeys

_MOST_BYTES = 4 * 1024 * 1024
_MOST_KEY_BYTES = 1024 * 1024
_MOST_REQUIREMENTS = 1000
_TRANSPORT = "docker"
_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_LOGS = ("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
_IDENTITY_KEYS: Mapping[str, tuple[str, ...]] = {
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}


@dataclass(frozen=True, slots=True)
class SignaturePolicy:
    """The requirements by scope: those of registries, repositories and images, and the default.

    The same `fingerprint` means the same policy with the same keys.
    """

    default: tuple[Requirement, ...]
    scopes: Mapping[str, tuple[Requirement, ...]]
    fingerprint: str

    def requirements(self, reference: Reference) -> tuple[Requirement, ...]:
        """Return the requirements for an image at its source: those of the most precise scope."""
        for scope in _scopes(docker_name(reference)):
            if scope in self.scopes:
                return self.scopes[scope]

        return self.default

    @property
    def all_requirements(self) -> tuple[Requirement, ...]:
        """The requirements of all scopes."""
        return (*self.default, *(one for each in self.scopes.values() for one in each))


def docker_name(reference: Reference) -> DockerName:
    """Return the name that signatures have for `reference`: with its tag, or with its digest if it has no tag."""
    repository = f"{reference.repository.registry}/{reference.repository.name}"
    found = parse_name(f"{repository}:{reference.tag}" if reference.tag else f"{repository}@{reference.digest}")
    assert found is not None
    return found


def _scopes(name: DockerName) -> Iterator[str]:
    """Yield the scopes that `name` belongs to, the most precise first."""
    yield str(name)
    scope = name.repository
    while scope:
        yield scope
        scope = scope.rpartition("/")[0]

    host = name.repository.partition("/")[0].partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        yield f"*.{host}"

    yield ""


def system_policy(environment: Mapping[str, str]) -> Path:
    """Return the policy that podman uses: that of the user, if there is one, or that of the system."""
    home = environment.get("XDG_CONFIG_HOME") or (f"{environment['HOME']}/.config" if environment.get("HOME") else "")
    own = Path(home, "containers", "policy.json")
    return own if home and own.is_file() else Path("/etc/containers/policy.json")


def read_policy(path: Path) -> SignaturePolicy:
    """Return the policy in the file at `path`, with the keys that it names; relative paths start at its directory.

    :raises ConfigError: if it can't be read, or is not a policy that can be followed to the letter.
    """
    content = _read(path, _MOST_BYTES, "")
    try:
        document = parse_object(content, limit=_MOST_BYTES)
    except InvalidDocument as error:
        raise ConfigError(f"{path}: {error}") from None

    return _Reader(path).policy(document)


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hash = hashlib.sha256()

    def policy(self, document: dict[str, Any]) -> SignaturePolicy:
        self._expect(document, "", required=("default",), optional=("transports",))
        self._hash.update(repr(document).encode())
        default = self._requirements(document["default"], "default")
        scopes: dict[str, tuple[Requirement, ...]] = {}
        for transport, each in self._table(document.get("transports", {}), "transports").items():
            for scope, requirements in self._table(each, f"transports.{transport}").items():
                found = self._requirements(requirements, f'transports.{transport}["{scope[:200]}"]')
                if transport == _TRANSPORT:
                    scopes[scope] = found

        return SignaturePolicy(default, scopes, self._hash.hexdigest())

    def _requirements(self, value: object, where: str) -> tuple[Requirement, ...]:
        if not isinstance(value, list) or not value or len(value) > _MOST_REQUIREMENTS:
            raise self._error(where, "must be a list of at least one requirement")

        return tuple(self._requirement(each, f"{where}[{number}]") for number, each in enumerate(value))

    def _requirement(self, value: object, where: str) -> Requirement:
        table = self._table(value, where)
        match table.get("type"):
            case "insecureAcceptAnything":
                self._expect(table, where, required=("type",))
                return AcceptAnything()
            case "reject":
                self._expect(table, where, required=("type",))
                return Reject()
            case "signedBy":
                return self._signed_by(table, where)
            case "sigstoreSigned":
                return self._sigstore_signed(table, where)

        raise self._error(f"{where}.type", f"{str(table.get('type'))[:50]!r} is not a type that quaymirror can check")

    def _signed_by(self, table: dict[str, Any], where: str) -> SignedByGPG:
        self._expect(table, where, required=("type", "keyType"), optional=(*_KEYS[:3], "signedIdentity"))
        if table["keyType"] != "GPGKeys":
            raise self._error(f"{where}.keyType", "must be GPGKeys")

        self._exactly_one(table, where, _KEYS[:3])
        return SignedByGPG(self._key_files(table, where, _KEYS), self._identity(table, where))

    def _sigstore_signed(self, table: dict[str, Any], where: str) -> Requirement:
        self._expect(table, where, required=("type",), optional=(*_KEYS, *_LOGS, "fulcio", "signedIdentity"))
        self._exactly_one(table, where, (*_KEYS, "fulcio"))
        if any(key in table for key in _LOGS):
            self._exactly_one(table, where, _LOGS)

        logs, identity = self._key_files(table, where, _LOGS), self._identity(table, where)
        if "fulcio" not in table:
            return SignedByKeys(self._key_files(table, where, _KEYS), identity, logs)

        if not logs:
            raise self._error(where, "fulcio needs rekorPublicKeyPath, or one of its kind")

        place = f"{where}.fulcio"
        fulcio = self._table(table["fulcio"], place)
        self._expect(fulcio, place, required=("oidcIssuer", "subjectEmail"), optional=("caPath", "caData"))
        self._exactly_one(fulcio, place, ("caPath", "caData"))
        [authority] = self._key_files(fulcio, place, ("caPath", "", "caData", ""))
        issuer, subject = (self._text(fulcio[key], f"{place}.{key}") for key in ("oidcIssuer", "subjectEmail"))
        return SignedByIdentity(authority, issuer, subject, identity, logs)

    def _identity(self, table: dict[str, Any], where: str) -> SignedIdentity:
        if "signedIdentity" not in table:
            return SignedIdentity()

        where = f"{where}.signedIdentity"
        rule = self._table(table["signedIdentity"], where)
        kind = rule.get("type")
        if kind not in KINDS:
            raise self._error(f"{where}.type", f"{str(kind)[:50]!r} is not one of {', '.join(sorted(KINDS))}")

        keys = _IDENTITY_KEYS.get(kind, ())
        self._expect(rule, where, required=("type", *keys))
        values = [self._name(rule[key], f"{where}.{key}", has_tag=key == "dockerReference") for key in keys]
        return SignedIdentity(kind, *values) if len(values) < 2 else SignedIdentity(kind, "", *values)

    def _name(self, value: object, where: str, *, has_tag: bool) -> str:
        text = self._text(value, where)
        found = parse_name(text)
        if found is None and "/" not in text and not has_tag and "." in text:
            return text  # a host, as the prefix of a remapIdentity

        if found is None or bool(found.tag or found.digest) is not has_tag:
            raise self._error(where, f"must be a repository{' with a tag or a digest' * has_tag}")

        return text

    def _key_files(self, table: dict[str, Any], where: str, keys: tuple[str, ...]) -> tuple[KeyFile, ...]:
        path, paths, data, datas = keys
        if path in table or paths in table:
            key = path if path in table else paths
            return tuple(self._file(each, f"{where}.{key}") for each in self._texts(table[key], where, key, paths))

        if data in table or datas in table:
            key = data if data in table else datas
            texts = self._texts(table[key], where, key, datas)
            return tuple(
                KeyFile(f"{key}[{number}]" if key == datas else key, self._decoded(text, f"{where}.{key}"))
                for number, text in enumerate(texts)
            )

        return ()

    def _texts(self, value: object, where: str, key: str, plural: str) -> list[str]:
        where = f"{where}.{key}"
        if key != plural:
            return [self._text(value, where)]

        if not isinstance(value, list) or not value:
            raise self._error(where, "must be a list of at least one text")

        return [self._text(each, where) for each in value]

    def _file(self, name: str, where: str) -> KeyFile:
        content = _read(self._path.parent / name, _MOST_KEY_BYTES, f"{self._path}: {where}: ")
        self._hash.update(hashlib.sha256(content).digest())
        return KeyFile(Path(name).name, content)

    def _decoded(self, text: str, where: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise self._error(where, "is not base64") from None

    def _expect(
        self, table: dict[str, Any], where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> None:
        for key in table:
            if key not in required and key not in optional:
                raise self._error(f"{where}.{key[:100]}".lstrip("."), "unknown key")

        for key in required:
            if key not in table:
                raise self._error(f"{where}.{key}".lstrip("."), "is missing")

    def _exactly_one(self, table: dict[str, Any], where: str, keys: tuple[str, ...]) -> None:
        if sum(key in table for key in keys) != 1:
            raise self._error(where, f"needs exactly one of {', '.join(keys)}")

    def _table(self, value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(where, "must be an object")

        return value

    def _text(self, value: object, where: str) -> str:
        if not isinstance(value, str) or not value:
            raise self._error(where, "must be a text")

        return value

    def _error(self, where: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._path}: {where}: {problem}")


def _read(path: Path, limit: int, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        failure = from_os_error(error, "read", path, kind=ConfigError)
        raise failure.replace(f"{where}{failure.message}") from None

    if len(content) > limit:
        raise ConfigError(f"{where}{path} has more than {limit:,} bytes")

    return content
