"""The content of the server: namespaces, repositories, tags with their history, and access rights.

The rules are Quay's own. A push always makes a new tag row and ends the one before, also when the digest stays the
same; a repository's ``last_modified`` is the newest start among its alive tags, and so can go back or become None.
"""

from __future__ import annotations

import itertools
import random
import string
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from quaymirror.testing.images import Blob, SourceManifest

Clock = Callable[[], float]
RepositoryState = Literal["NORMAL", "READ_ONLY", "MIRROR", "ORG_MIRROR", "MARKED_FOR_DELETION"]

_TOKEN_ALPHABET = string.ascii_uppercase + string.digits
OAUTH_TOKEN_LENGTH = 40
ROBOT_TOKEN_LENGTH = 64


@dataclass(slots=True)
class Tag:
    """One row of a tag's history. Times are epoch milliseconds, as Quay keeps them; answers show whole seconds."""

    name: str
    manifest: SourceManifest
    start_ms: int
    end_ms: int | None = None
    reversion: bool = False

    @property
    def start_ts(self) -> int:
        """Start in epoch seconds."""
        return self.start_ms // 1000

    @property
    def end_ts(self) -> int | None:
        """End or expiry in epoch seconds; may lie in the future."""
        return None if self.end_ms is None else self.end_ms // 1000

    def is_alive(self, now_ms: int) -> bool:
        """Return whether the row is the tag's current one at *now_ms*."""
        return self.end_ms is None or self.end_ms > now_ms


@dataclass(slots=True, eq=False)
class Repository:
    """A repository. Make one with `Organization.repository`, which gives it its place in creation order."""

    name: str
    is_public: bool = True
    state: RepositoryState = "NORMAL"
    kind: str = "image"
    description: str | None = None
    namespace: str = ""
    id: int = 0
    now: Clock = field(default=time.time, repr=False)
    readers: set[str] = field(default_factory=set, repr=False)
    history: list[Tag] = field(default_factory=list, repr=False)
    untagged: dict[str, SourceManifest] = field(default_factory=dict, repr=False)
    deletions: int = 0
    _blobs: dict[str, Blob] = field(default_factory=dict, repr=False)
    _missing: set[str] = field(default_factory=set, repr=False)

    @property
    def full_name(self) -> str:
        """Namespace and name, as in ``/v2/NAME/``."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_listed(self) -> bool:
        """Return whether the repository exists for clients: Quay hides repositories that are marked for deletion."""
        return self.state != "MARKED_FOR_DELETION"

    def grant(self, principal: str) -> None:
        """Let *principal* (a user, or a robot ``namespace+name``) read this repository."""
        self.readers.add(principal)

    def push(self, tag: str, manifest: SourceManifest) -> Tag:
        """Make *tag* mean *manifest* from now on; a new row even if it does so already."""
        return self._start(tag, manifest, reversion=False)

    def restore(self, tag: str, digest: str) -> Tag:
        """Bring back a former meaning of *tag*, as the time machine does.

        Raises:
            KeyError: *tag* never meant *digest*.
        """
        for row in self.history:
            if (row.name, row.manifest.digest) == (tag, digest):
                return self._start(tag, row.manifest, reversion=True)
        raise KeyError(f"{tag} never was {digest}")

    def attach(self, manifest: SourceManifest) -> None:
        """Add a manifest that no tag leads to, reachable by digest: a referrer, or a push by digest."""
        self.untagged[manifest.digest] = manifest
        self._keep(manifest)

    def delete_tag(self, tag: str) -> None:
        """End *tag* now.

        Raises:
            KeyError: there is no such alive tag.
        """
        row = self.tag(tag)
        if row is None:
            raise KeyError(tag)
        row.end_ms = self.now_ms()
        self.deletions += 1

    def set_expiry(self, tag: str, expires_at: float | None) -> None:
        """Let *tag* end at *expires_at* (epoch seconds), or never; its start and ``last_modified`` stay.

        Raises:
            KeyError: there is no such alive tag.
        """
        row = self.tag(tag)
        if row is None:
            raise KeyError(tag)
        row.end_ms = None if expires_at is None else int(expires_at * 1000)

    def lose(self, digest: str) -> None:
        """Make a manifest or blob unknown while others still refer to it: a sparse index, a blob gone from storage."""
        self._missing.add(digest)

    def tag(self, name: str) -> Tag | None:
        """Return the alive row of *name*."""
        now_ms = self.now_ms()
        return next((row for row in reversed(self.history) if row.name == name and row.is_alive(now_ms)), None)

    def ever_had(self, tag: str) -> bool:
        """Return whether *tag* existed at any time."""
        return any(row.name == tag for row in self.history)

    def tags(self, *, only_active: bool = True) -> list[Tag]:
        """Return rows newest first, then by name: the order of Quay's tag listing."""
        now_ms = self.now_ms()
        rows = [row for row in self.history if not only_active or row.is_alive(now_ms)]
        return sorted(rows, key=lambda row: (-row.start_ms, row.name))

    @property
    def last_modified(self) -> int | None:
        """Newest start among the alive tags in epoch seconds; None when no tag is alive."""
        now_ms = self.now_ms()
        return max((row.start_ts for row in self.history if row.is_alive(now_ms)), default=None)

    def manifest(self, digest: str) -> SourceManifest | None:
        """Return the manifest *digest* if a living tag leads to it, or if it was attached."""
        return next((found for found in self.manifests() if found.digest == digest), None)

    def manifests(self) -> Iterator[SourceManifest]:
        """Yield every reachable manifest; one that several tags lead to comes several times."""
        roots = [row.manifest for row in self.tags()] + list(self.untagged.values())
        for root in roots:
            yield from (found for found in root.walk() if found.digest not in self._missing)

    def has_lost(self, digest: str) -> bool:
        """Return whether *digest* was lost by `lose`."""
        return digest in self._missing

    def blob(self, digest: str) -> Blob | None:
        """Return a blob that was pushed to this repository, also if its tag has died since: storage lags behind."""
        return None if digest in self._missing else self._blobs.get(digest)

    def now_ms(self) -> int:
        """The clock in epoch milliseconds."""
        return int(self.now() * 1000)

    def _start(self, tag: str, manifest: SourceManifest, *, reversion: bool) -> Tag:
        present = self.tag(tag)
        if present is not None:
            present.end_ms = self.now_ms()
        row = Tag(tag, manifest, self.now_ms(), reversion=reversion)
        self.history.append(row)
        self._keep(manifest)
        return row

    def _keep(self, manifest: SourceManifest) -> None:
        self._blobs.update(manifest.all_blobs())


@dataclass(slots=True, eq=False)
class Namespace:
    """A namespace, of an organization or a user: its name, repositories, and users with rights."""

    name: str
    registry: Registry = field(repr=False)
    repositories: dict[str, Repository] = field(default_factory=dict, repr=False)
    admins: set[str] = field(default_factory=set)

    @property
    def is_organization(self) -> bool:
        """Return whether this is an organization and not the namespace of a user."""
        return True

    def repository(
        self,
        name: str,
        *,
        public: bool = True,
        state: RepositoryState = "NORMAL",
        description: str | None = None,
    ) -> Repository:
        """Return the repository *name*, which may be nested (``a/b``); created with these properties if it's new."""
        if name not in self.repositories:
            self.repositories[name] = Repository(
                name,
                public,
                state,
                description=description,
                namespace=self.name,
                id=self.registry.next_id(),
                now=self.registry.now,
            )
        return self.repositories[name]

    def delete_repository(self, name: str) -> None:
        """Remove *name*, its tags and their history.

        Raises:
            KeyError: there is no such repository.
        """
        del self.repositories[name]

    def grant(self, principal: str) -> None:
        """Let *principal* (a user, or a robot ``namespace+name``) read all repositories here, and know which exist."""
        self.admins.add(principal)


@dataclass(slots=True, eq=False)
class Organization(Namespace):
    """An organization."""


@dataclass(slots=True, eq=False)
class User(Namespace):
    """A user, who is also the namespace of their own repositories."""

    password: str = field(default="", repr=False)

    @property
    def is_organization(self) -> bool:
        """A user's namespace isn't an organization."""
        return False


@dataclass(frozen=True, slots=True)
class Robot:
    """A robot account: good for registry tokens (HTTP Basic on ``/v2/auth``), unknown to API v1."""

    name: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """An OAuth application's token, the only credential API v1 knows. It acts for *user* within *scopes*."""

    value: str = field(repr=False)
    user: str
    scopes: frozenset[str] = frozenset({"repo:read"})
    expires_at: float | None = None

    def allows(self, *scopes: str) -> bool:
        """Return whether one of *scopes* was granted."""
        return not self.scopes.isdisjoint(scopes)


class Registry:
    """All namespaces and accounts of a server. Changes show at once; nothing is cached."""

    def __init__(self, *, now: Clock = time.time, seed: int = 0) -> None:
        """Start empty; *now* gives epoch seconds and rules every time the server speaks of."""
        self.now = now
        self.namespaces: dict[str, Namespace] = {}
        self.robots: dict[str, Robot] = {}
        self.oauth_tokens: dict[str, OAuthToken] = {}
        self.identity_tokens: dict[str, str] = {}
        self._ids = itertools.count(1)
        self._random = random.Random(seed)

    def organization(self, name: str) -> Organization:
        """Return the organization *name*, made if new.

        Raises:
            TypeError: *name* is a user.
        """
        found = self.namespaces.setdefault(name, Organization(name, self))
        if not isinstance(found, Organization):
            raise TypeError(f"{name} is a user")
        return found

    def user(self, name: str, *, password: str | None = None) -> User:
        """Return the user *name*, made if new, with a made-up password unless one is given.

        Raises:
            TypeError: *name* is an organization.
        """
        if name not in self.namespaces:
            secret = password if password is not None else self._secret(16)
            self.namespaces[name] = User(name, self, admins={name}, password=secret)
        found = self.namespaces[name]
        if not isinstance(found, User):
            raise TypeError(f"{name} is an organization")
        return found

    def robot(self, name: str, *, token: str | None = None) -> Robot:
        """Return the robot *name* (``namespace+short``), made if new. It may read nothing private until granted."""
        if name not in self.robots:
            self.robots[name] = Robot(name, token or self._secret(ROBOT_TOKEN_LENGTH))
        return self.robots[name]

    def oauth_token(
        self,
        user: str,
        *,
        scopes: Iterable[str] = ("repo:read",),
        expires_at: float | None = None,
        value: str | None = None,
    ) -> str:
        """Make an API token that acts for *user* (made if new) and return its value."""
        self.user(user)
        secret = value or self._secret(OAUTH_TOKEN_LENGTH)
        self.oauth_tokens[secret] = OAuthToken(secret, user, frozenset(scopes), expires_at)
        return secret

    def identity_token(self, account: str, *, value: str | None = None) -> str:
        """Make an identity token (OAuth2 refresh token) of *account*, a user or robot, and return its value.

        Quay itself has none; other registries that docker logs in to do.
        """
        secret = value or self._secret(OAUTH_TOKEN_LENGTH)
        self.identity_tokens[secret] = account
        return secret

    def valid_oauth_token(self, value: str) -> OAuthToken | None:
        """Return the token with this *value* unless it is unknown or expired."""
        found = self.oauth_tokens.get(value)
        if found is None or (found.expires_at is not None and found.expires_at <= self.now()):
            return None
        return found

    def find(self, full_name: str) -> Repository | None:
        """Return the repository ``NAMESPACE/NAME`` if it exists."""
        namespace, _, name = full_name.partition("/")
        owner = self.namespaces.get(namespace)
        found = owner.repositories.get(name) if owner else None
        return found if found is not None and found.is_listed else None

    def repositories(self) -> list[Repository]:
        """Return every existing repository in creation order."""
        everything = (repo for owner in self.namespaces.values() for repo in owner.repositories.values())
        return sorted((repo for repo in everything if repo.is_listed), key=lambda repo: repo.id)

    def knows_namespace(self, principal: str | None, namespace: str) -> bool:
        """Return whether *principal* has rights on the whole of *namespace*."""
        owner = self.namespaces.get(namespace)
        return principal is not None and owner is not None and principal in owner.admins

    def may_read(self, principal: str | None, repository: Repository) -> bool:
        """Return whether *principal* has an explicit right to read *repository*, apart from its being public."""
        if principal is None:
            return False
        return principal in repository.readers or self.knows_namespace(principal, repository.namespace)

    def blob(self, digest: str) -> Blob | None:
        """Return a blob from any repository: storage knows no repositories."""
        everything = (repo for owner in self.namespaces.values() for repo in owner.repositories.values())
        return next((found for repo in everything if (found := repo.blob(digest))), None)

    def next_id(self) -> int:
        """Return the next database id; ids are given in creation order and never again."""
        return next(self._ids)

    def _secret(self, length: int) -> str:
        return "".join(self._random.choices(_TOKEN_ALPHABET, k=length))
