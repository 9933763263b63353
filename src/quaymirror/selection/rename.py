"""Rules that give images other names in a target: `--rename FROM=TO`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ..errors import ConfigError, InvalidName
from ..oci import Digest, Reference, Repository
from ..oci.reference import is_repository_name, is_tag
from ..values import dataclass, pattern
from .grammar import quoted

_FORM = "write FROM=TO, such as 'openstack.kolla/*=kolla/*' or 'docker.io/library/*=hub/*'"
_PART = pattern(r"[A-Za-z0-9*\[][A-Za-z0-9._/:@*\[\]-]*(?<![/:@])")


@dataclass(frozen=True, slots=True)
class Rename:
    """One rule: the texts that each `*` of `before` matched replace those of `after`, in order.

    `before` is a name with or without its registry, and with or without `:TAG` or `@DIGEST`. The tag stays unless
    `after` has one.
    """

    before: str
    after: str

    @classmethod
    def parse(cls, text: str) -> Rename:
        """Return the rule that `text` (`FROM=TO`) spells.

        :raises ConfigError: if it is none.
        """
        before, equals, after = text.partition("=")
        if not equals or not _PART.fullmatch(before) or not _PART.fullmatch(after):
            raise ConfigError(f"not a rule for names: {quoted(text)}; {_FORM}")

        if after.count("*") > before.count("*"):
            raise ConfigError(f"more * after the = than before it: {quoted(text)}; {_FORM}")

        name, _, tag = after.replace("*", "x").partition(":")
        if not is_repository_name(name) or (tag and not is_tag(tag)):
            raise ConfigError(f"not a name for images: {quoted(after)}; write it without a registry, as ORG/REPO[:TAG]")

        return cls(before, after)

    def apply(self, text: str, rest: str) -> str | None:
        """Return the new name of `text`, one of the spellings of an image, or None; `rest` follows if it has no tag."""
        found = _pattern(self.before).fullmatch(text)
        if found is None:
            return None

        name = _fill(self.after, found.groups())
        return name if ":" in name else f"{name}{rest}"

    def __str__(self) -> str:
        return f"{self.before}={self.after}"


class Renames:
    """All rules of a run. A rule without `*` comes before one with it, then the first that matches counts."""

    def __init__(self, rules: Iterable[Rename] = ()) -> None:
        self._exact: dict[str, Rename] = {}
        self._patterns: list[Rename] = []
        for rule in rules:
            if "*" in rule.before:
                self._patterns.append(rule)
            else:
                self._exact.setdefault(rule.before, rule)

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def apply(self, reference: Reference) -> Reference:
        """Return `reference` with its name in the target; its registry and digest stay.

        :raises InvalidName: if a rule gives it no valid name.
        """
        name = self._name(reference) if self else None
        if name is None:
            return reference

        repository, mark, rest = _split(name)
        return Reference(
            Repository(reference.repository.registry, repository), rest if mark == ":" else None, reference.digest
        )

    def originals(self, registry: str, name: str) -> Iterator[str]:
        """Yield the names that an image called `name` in the target may have at the source called `registry`."""
        for rule in self._patterns + list(self._exact.values()):
            if (found := _origin(rule, name)) is not None:
                yield found.removeprefix(f"{registry}/")

        yield name

    def restore(self, registry: str, name: str) -> str | None:
        """Return the name at the source of an image called `name` in the target, None if no image gets that name."""
        return next((each for each in self.originals(registry, name) if self._leads(registry, each, name)), None)

    def _leads(self, registry: str, source: str, name: str) -> bool:
        repository, mark, rest = _split(source)
        try:
            tag, digest = (rest, None) if mark == ":" else (None, Digest.parse(rest))
            return self.apply(Reference(Repository(registry, repository), tag, digest)).name == name
        except InvalidName:
            return False

    def _name(self, reference: Reference) -> str | None:
        repository, mark, rest = _split(reference.name)
        spellings = []
        for name in (repository, f"{reference.repository.registry}/{repository}"):
            spellings += [(f"{name}{mark}{rest}", f"{mark}{rest}"), (name, f"{mark}{rest}")]

        for text, end in spellings:
            if text in self._exact:
                return self._exact[text].apply(text, end)

        for rule in self._patterns:
            for text, end in spellings:
                # A tag is part of the name only for rules that have one.
                if (text.endswith(end) == _has_tag(rule.before)) and (found := rule.apply(text, end)) is not None:
                    return found

        return None


def _origin(rule: Rename, name: str) -> str | None:
    """Return the name that `rule` made `name` of, None if that is unknown."""
    if rule.before.count("*") != rule.after.count("*"):
        return None

    repository, mark, rest = _split(name)
    text = name if _has_tag(rule.after) else repository
    found = _pattern(rule.after).fullmatch(text)
    if found is None:
        return None

    before = _fill(rule.before, found.groups())
    return before if _has_tag(rule.before) else f"{before}{mark}{rest}"


def _has_tag(pattern: str) -> bool:
    return ":" in pattern.rpartition("/")[2] or "@" in pattern


def _split(name: str) -> tuple[str, str, str]:
    """Split `NAME:TAG` or `NAME@DIGEST`."""
    repository, mark, rest = name.partition("@")
    return (repository, mark, rest) if mark else name.rpartition(":")


def _fill(template: str, values: Iterable[str]) -> str:
    found = iter(values)
    return re.sub(r"\*", lambda _: next(found), template)


@lru_cache(maxsize=1024)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(re.escape(part) for part in glob.split("*")), re.DOTALL)


def split_name(name: str) -> tuple[str, str | None]:
    """Return repository and tag of an image's name in a mirror; one that is named by its digest has no tag."""
    repository, mark, rest = _split(name)
    return repository, rest if mark == ":" else None
