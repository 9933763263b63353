"""Conversion of files of other tools into jobs: skopeo, regsync, image-syncer, lists.

A list of hauler, oc-mirror or imgpkg stays the file that it is: the job names it.

Parts that a job can't express are listed, never dropped silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from ..errors import ConfigError
from ..selection.image_documents import read_documents
from ..selection.image_list import parse_list
from ..text import escape_controls
from ..values import dataclass
from ..yaml_text import load_documents

# Regular expressions that are equivalent to a glob.
_SIMPLE_REGEX = re.compile(r"\^?((?:[A-Za-z0-9_-]|\\\.|\.\*)+)\$?")
_NO_QUAY = re.compile(r"(?:index\.)?docker\.io|ghcr\.io|(?:[a-z0-9-]+\.)?gcr\.io|registry\.k8s\.io|mcr\.microsoft\.com")
_DIGEST = re.compile(r"[a-z0-9]+:[0-9a-f]{32,}")

_Key = tuple[str, str, tuple[str, ...], str, tuple[str, ...]]
"""The common values of the repositories of one job: server, organization, tags, target and platforms."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A configuration file, and the parts that could not be converted."""

    toml: str
    left_out: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """Repositories of each job, their names at its target by those at the source, and the parts that are left out."""

    repositories: dict[_Key, list[str]] = field(default_factory=dict)
    names: dict[_Key, dict[str, str]] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    defaults: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(
        self, image: str, tags: tuple[str, ...], *, target: str = "", platforms: tuple[str, ...] = (), name: str = ""
    ) -> None:
        """Add `image` (`HOST/ORG/REPO`), stored as `name[:TAG]` if given, or the reason why it is left out."""
        host, _, path = image.partition("/")
        organization, _, repository = path.partition("/")
        if "." not in host.partition(":")[0] and host.partition(":")[0] != "localhost":
            self.left_out.append(f"{image}: no registry in its name")
            return

        if not organization or not repository:
            self.left_out.append(f"{image}: no organization in its name")
            return

        if _NO_QUAY.match(host):
            host = "registry-1.docker.io" if host in ("docker.io", "index.docker.io") else host
            key, repository = (host, "", tags, target, platforms), path
        else:
            key = (host, organization, tags, target, platforms)

        source = f"{path}:{tags[0]}" if ":" in name else path
        if self.names.setdefault(key, {}).setdefault(source, name or source) != (name or source):
            self.left_out.append(f"{image}: another name for it at the same target, {name}: write a second job")
        else:
            self.repositories.setdefault(key, []).append(repository)


def convert(text: str, name: str) -> Converted:
    """Convert `text`, the content of the file called `name`.

    :raises ConfigError: if its format is unknown.
    """
    documents = load_documents(text, name)
    found = _Found()
    document = documents[0] if documents else None
    if any(isinstance(each, str) or (isinstance(each, dict) and "kind" in each) for each in documents):
        _list(documents, text, name, found)
    elif isinstance(document, dict) and _is_image_syncer(document):
        for source, target in document.items():
            _image_syncer(str(source), [str(each) for each in _items(target)], found)
    elif isinstance(document, dict) and isinstance(document.get("sync"), list):
        _regsync(document, found)
    elif isinstance(document, dict) and document and all(isinstance(value, dict) for value in document.values()):
        for host, registry in document.items():
            _skopeo(str(host), registry, found)
    else:
        raise ConfigError(f"{name} is neither a file of skopeo, regsync, image-syncer, oc-mirror or imgpkg, nor a list")

    left_out = tuple(map(escape_controls, found.left_out))
    return Converted(_toml(found, left_out, name), left_out)


# ---- skopeo sync --src yaml


def _skopeo(host: str, registry: Mapping[str, Any], found: _Found) -> None:
    for repository, tags in _mapping(registry.get("images")).items():
        names = [str(tag) for tag in _items(tags)]
        digests = [tag for tag in names if _DIGEST.fullmatch(tag)]
        found.left_out += [
            f"{host}/{repository}@{digest}: images by digest belong in a list: images = FILE" for digest in digests
        ]
        if len(digests) < len(names) or not names:
            found.add(f"{host}/{repository}", tuple(tag for tag in names if tag not in digests) or ("*",))

    for repository, regex in _mapping(registry.get("images-by-tag-regex")).items():
        _by_regex(f"{host}/{repository}", _anchored(str(regex)), found)

    for repository, versions in _mapping(registry.get("images-by-semver")).items():
        found.left_out.append(f"{host}/{repository}: tags by version ({versions}): write globs for them")

    if registry.get("credentials"):
        found.left_out.append(f"{host}: credentials: log in with podman or skopeo, or give --authfile")

    if registry.get("tls-verify") is False:
        found.left_out.append(f'{host}: tls-verify: false: give its certificate with cafile, or server = "http://…"')

    if registry.get("cert-dir"):
        found.left_out.append(f"{host}: cert-dir: name the certificate with cafile")

    known = {"images", "images-by-tag-regex", "images-by-semver", "credentials", "tls-verify", "cert-dir"}
    found.left_out += [f"{host}: {key}: unknown" for key in registry if key not in known]


def _anchored(regex: str) -> str:
    """Return a regular expression that skopeo searches in tags as one that matches the whole tag."""
    return ("" if regex.startswith("^") else ".*") + regex + ("" if regex.endswith("$") else ".*")


def _by_regex(image: str, regex: str, found: _Found, **more: Any) -> None:
    glob = _glob(regex)
    if glob is None:
        found.left_out.append(f"{image}: tags by the regular expression {regex}: write globs for them")
    else:
        found.add(image, (glob,), **more)


def _glob(regex: str) -> str | None:
    """Return the equivalent glob, or None if none exists."""
    if not _SIMPLE_REGEX.fullmatch(regex):
        return None

    return regex.removeprefix("^").removesuffix("$").replace(".*", "*").replace("\\.", ".")


# ---- regsync.yml


_REGSYNC_IGNORED = {
    "schedule": "start runs with a timer",
    "interval": "start runs with a timer",
    "backup": "a mirror keeps what it has",
    "ratelimit": "quaymirror waits when the server asks it to",
    "digestTags": "",
    "referrers": "",
    "hooks": "use --ping-url, or what starts the run",
    "mediaTypes": "",
    "cacheCount": "",
    "cacheTime": "",
}


def _regsync(document: Mapping[str, Any], found: _Found) -> None:
    defaults = _mapping(document.get("defaults"))
    if isinstance(defaults.get("parallel"), int):
        found.defaults["concurrency"] = defaults["parallel"]

    found.left_out += _ignored("defaults", defaults, {"parallel"})
    for credential in _items(document.get("creds")):
        registry = credential.get("registry", "?") if isinstance(credential, dict) else "?"
        found.left_out.append(f"creds of {registry}: log in with podman or skopeo, or give --authfile")

    for number, step in enumerate(document["sync"]):
        if isinstance(step, dict):
            _step(step, found)
        else:
            found.left_out.append(f"sync.{number}: not a table")


def _step(step: Mapping[str, Any], found: _Found) -> None:
    source, kind = str(step.get("source", "")), step.get("type")
    target = str(step.get("target", ""))
    platforms = tuple(map(str, _items(step.get("platforms")) or _items(step.get("platform"))))
    known = {"source", "target", "type", "tags", "repos", "platform", "platforms"}
    found.left_out += _ignored(source, step, known)
    if kind == "image":
        image, colon, tag = source.rpartition(":")
        image, tag = (image, tag) if colon and "/" not in tag else (source, "latest")
        if "@" in source:
            found.left_out.append(f"{source}: images by digest belong in a list: images = FILE")
        else:
            found.add(image, (tag,), platforms=platforms, **_target(image, target.removesuffix(f":{tag}")))
    elif kind == "repository":
        place = _target(source, target)
        for regex in _allowed(source, step, "tags", found):
            _by_regex(source, regex, found, platforms=platforms, **place)
    elif kind == "registry":
        to = target if not target or target.startswith("ocidir://") else f"registry://{target}"
        for regex in _allowed(source, step, "repos", found):
            _by_repository(source, regex, step, found, target=to, platforms=platforms)
    else:
        found.left_out.append(f"{source or '?'}: type {kind!r}")


def _allowed(source: str, step: Mapping[str, Any], what: str, found: _Found) -> list[str]:
    rules = _mapping(step.get(what))
    found.left_out += [f"{source}: {what} that are denied: {rule}" for rule in _items(rules.get("deny"))]
    return [str(rule) for rule in _items(rules.get("allow")) or [".*"]]


def _by_repository(host: str, regex: str, step: Mapping[str, Any], found: _Found, **more: Any) -> None:
    organization, slash, rest = regex.removeprefix("^").partition("/")
    repository = _glob(rest)
    if not slash or not organization.isalnum() or not repository:
        found.left_out.append(f"{host}: repositories by the regular expression {regex}: name the organization")
        return

    image = f"{host}/{organization}/{repository}"
    for tag in _allowed(image, step, "tags", found):
        _by_regex(image, tag, found, **more)


def _target(source: str, target: str) -> dict[str, str]:
    """Return the target of a job that stores the repository `source` at `target`, and its name there."""
    if not target or target.startswith("ocidir://"):
        return {"target": target}

    name = source.partition("/")[2]
    if name and target.endswith(f"/{name}"):
        return {"target": f"registry://{target.removesuffix(f'/{name}')}"}

    host, _, other = target.partition("/")
    return {"target": f"registry://{host}", "name": other}


def _ignored(place: str, table: Mapping[str, Any], known: set[str]) -> list[str]:
    hints = ((key, _REGSYNC_IGNORED.get(key, "unknown")) for key in table if key not in known)
    return [f"{place}: {key}" + (f": {hint}" if hint else "") for key, hint in hints]


# ---- image-syncer


def _is_image_syncer(document: Mapping[Any, Any]) -> bool:
    """Return True if images at the source are the keys, and those at targets the values."""
    is_flat = all(isinstance(value, str | list | None) for value in document.values())
    return is_flat and any("/" in str(key) for key in document)


def _image_syncer(source: str, targets: list[str], found: _Found) -> None:
    image, _, wanted = source.partition(":") if "@" not in source else (source, "", "")
    if "@" in source:
        found.left_out.append(f"{source}: images by digest belong in a list: images = FILE")
        return

    for target in targets or [""]:
        host, _, name = target.partition("/")
        if ":" in name and ("," in wanted or wanted.startswith("/") or not wanted):
            found.left_out.append(f"{source}: its tag at the target, {target}: name one tag at the source, too")
            continue

        more: dict[str, Any] = {"target": f"registry://{host}" if host else "", "name": name}
        if wanted.startswith("/") and wanted.endswith("/"):
            _by_regex(image, wanted.strip("/"), found, **more)
        else:
            found.add(image, tuple(wanted.split(",")) if wanted else ("*",), **more)


# ---- lists: hauler, oc-mirror, imgpkg


def _list(documents: list[Any], text: str, name: str, found: _Found) -> None:
    """Add a job for a list, which stays as it is; other parts of its file are left out."""
    if not any(isinstance(each, dict) for each in documents):
        parse_list(text.encode(), name, "quay.io")
        found.lists.append(name)
        return

    listed = read_documents(text, name)
    if not listed.images:
        raise ConfigError(f"{name} names no image of a list: {'; '.join(listed.left_out)}")

    parse_list(text.encode(), name, "quay.io")
    found.lists.append(name)
    found.left_out += listed.left_out


# ---- writing


def _toml(found: _Found, left_out: tuple[str, ...], name: str) -> str:
    lines = [f"# Made of {escape_controls(name)}."]
    lines += [f"# Not in here: {line}" for line in left_out]
    if found.defaults:
        lines += ["", "[defaults]", *(f"{key} = {json.dumps(value)}" for key, value in found.defaults.items())]

    for name in found.lists:
        lines += ["", "[jobs.images]", f"images = {json.dumps(name, ensure_ascii=False)}"]

    taken: set[str] = set()
    for (host, organization, tags, target, platforms), repositories in found.repositories.items():
        title = next(title for title in _titles(organization or host, tags) if title not in taken)
        taken.add(title)
        values: dict[str, Any] = {"server": f"https://{host}"} if organization and host != "quay.io" else {}
        values |= {"organization": organization} if organization else {"source": f"registry://{host}"}
        values |= {"repositories": sorted(set(repositories)), "tags": list(tags)}
        values |= ({"to": target} if target else {}) | ({"platform": list(platforms)} if platforms else {})
        names = found.names[host, organization, tags, target, platforms]
        renames = [f"{source}={name}" for source, name in names.items() if source != name]
        values |= {"rename": renames} if renames else {}
        lines += ["", f"[jobs.{json.dumps(title, ensure_ascii=False)}]"]
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]

    return "\n".join(lines).replace("\x7f", "\\u007f") + "\n"


def _titles(organization: str, tags: tuple[str, ...]) -> Iterator[str]:
    yield organization
    yield f"{organization}-{re.sub(r'[^A-Za-z0-9_-]+', '-', tags[0]).strip('-') or 'all'}"
    number = 2
    while True:
        yield f"{organization}-{number}"
        number += 1


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    """Return the items of a list; a single value is one item."""
    if isinstance(value, list):
        return value

    return [] if value is None or isinstance(value, dict) else [value]
