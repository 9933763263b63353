"""Lists of images, as people write them and as other tools print them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path

from ..auth.files import read_config_file
from ..errors import ConfigError
from ..values import dataclass, pattern
from .references import FORM, PastedReference, read_reference
from .rename import Rename

MAX_LIST_BYTES = 16 * 1024 * 1024
_MAX_LINES = 100_000
# Columns of tables, as docker, podman and crictl print them: two spaces or more are between two headings.
_HEADING = pattern(r"\S+(?: \S+)*")
_COLUMNS = frozenset({"IMAGE", "REPOSITORY"})
_TABLE = frozenset({"CONTAINER ID", "IMAGE ID", "COMMAND", "NAMES", "TAG", "CONTAINER"})
# `- name: IMAGE`, `"nova_api_image_full": "IMAGE",` and the like.
_KEYED = pattern(r"""(?:-\s+)?(?:["']?[A-Za-z_][\w.-]*["']?:\s+)?["']?(?P<image>[^\s"',]+)["']?,?""")
# YAML of imgpkg, hauler and oc-mirror
_KIND = pattern(r"kind:\s*\S.*")
_WEB = ("https://", "http://")
_UNNAMED = pattern(r"(?:sha256:)?[0-9a-f]{12}(?:[0-9a-f]{52})?|<none>(?::.*)?")
_DESTINATION = pattern(r"(?:[a-z0-9]+://)?(?P<name>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ListedImages:
    """The images of a list, each once, the `renames` that it has, and lines for images without a name."""

    images: tuple[PastedReference, ...]
    renames: tuple[Rename, ...] = ()
    unnamed: tuple[str, ...] = ()


def read_list(file: Path, server: str, *, default_registry: str = "") -> ListedImages:
    """Return the images of the list in `file`; see `parse_list`.

    :raises ConfigError: if it can't be read, or has a line that names no image.
    """
    content = read_config_file(file, limit=MAX_LIST_BYTES)
    return parse_list(content, str(file), server, default_registry=default_registry)


def parse_list(content: bytes, name: str, server: str, *, default_registry: str = "") -> ListedImages:
    """Return the images of a list: one `[registry/]repository[:tag][@digest]` per line, `#` begins a comment.

    It may also be the table that `docker ps`, `docker images`, `podman ps` or `crictl images` prints, the output of
    kolla-ansible (`nova_api_image_full: IMAGE`), a list of kubespray or hauler, or a mapping for `oc image mirror`
    (`IMAGE=NAME`). A line without registry belongs to `default_registry`, or to `server`.

    :raises ConfigError: if a line names no image, or no line does; `name` is that of the list in messages.
    """
    if len(content) > MAX_LIST_BYTES:
        raise ConfigError(f"{name} is too large for a list of images: more than {MAX_LIST_BYTES:,} bytes")

    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not a list of images: not UTF-8") from None

    if len(lines) > _MAX_LINES:
        raise ConfigError(f"{name} has {len(lines):,} lines; a list has at most {_MAX_LINES:,}")

    found = _Found(server, default_registry)
    is_document = any(_KIND.fullmatch(line) for line in lines)
    for place, text, destination in _documented(lines, name) if is_document else _written(lines, name):
        try:
            found.add(text, destination)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error.message}") from None

    if not found.images and not found.unnamed:
        raise ConfigError(f"{name} names no image: write one per line, {FORM}")

    return ListedImages(
        tuple(found.images.values()), tuple(found.renames.values()), tuple(dict.fromkeys(found.unnamed))
    )


@dataclass(slots=True)
class _Found:
    """The images of a list that were found so far."""

    server: str
    default_registry: str
    images: dict[str, PastedReference] = field(default_factory=dict)
    renames: dict[str, Rename] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)

    def add(self, text: str, destination: str | None) -> None:
        """Add the image `text`, which gets the name `destination`, if any.

        :raises ConfigError: if it is none, or has another name already.
        """
        if _UNNAMED.fullmatch(text):
            self.unnamed.append(text)
            return

        image = read_reference(text, self.server, default_registry=self.default_registry)
        self.images.setdefault(str(image), image)
        if destination is not None:
            rule = _mapping(image, destination, self.server)
            if (first := self.renames.setdefault(rule.before, rule)) != rule:
                raise ConfigError(f"{image} is {first.after} in an earlier line: write another list")


_Entry = tuple[str, str, str | None]
"""The place of an image, its text, and its name in the mirror."""


def _documented(lines: list[str], name: str) -> Iterator[_Entry]:
    from .image_documents import read_documents  # a parser of YAML takes time to import

    for image in read_documents("\n".join(lines), name).images:
        yield image.place, image.text, image.rewrite or None


def _written(lines: list[str], name: str) -> Iterator[_Entry]:
    for number, text in _entries(lines):
        # The query of a web page has a `=`, too.
        source, equals, destination = (text, "", "") if text.startswith(_WEB) else text.partition("=")
        yield f"{name}:{number}", source, destination if equals else None


def _entries(lines: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the text that names an image in each line, with the number of the line."""
    columns: dict[str, tuple[int, int | None]] | None = None
    for number, line in enumerate(lines, 1):
        text = line.partition(" #")[0].strip()
        if not text or text.startswith("#") or text in ("---", "[", "]"):
            continue

        if found := _header(line):
            columns = found
        elif columns is not None:
            yield number, _cell(line, columns)
        else:
            yield number, _plain(text)


def _header(line: str) -> dict[str, tuple[int, int | None]]:
    """Return the places of the columns if `line` is the heading of a table."""
    found = list(_HEADING.finditer(line.expandtabs()))
    names = {each[0].strip() for each in found}
    if not names & _COLUMNS or not names & _TABLE:
        return {}

    ends: list[int | None] = [*(each.start() for each in found[1:]), None]
    return {each[0]: (each.start(), end) for each, end in zip(found, ends, strict=True)}


def _cell(line: str, columns: dict[str, tuple[int, int | None]]) -> str:
    def text(column: str) -> str:
        return line.expandtabs()[slice(*columns[column])].strip() if column in columns else ""

    name = text("IMAGE") or text("REPOSITORY")
    tag, digest = text("TAG"), text("DIGEST")
    # Docker shows a container's image with its tag; tables of images have columns for it.
    name += f":{tag}" if tag and tag != "<none>" else ""
    return name + (f"@{digest}" if digest and digest != "<none>" else "")


def _plain(text: str) -> str:
    found = _KEYED.fullmatch(text)
    return found["image"] if found is not None else text


def _mapping(image: PastedReference, destination: str, server: str) -> Rename:
    """Return the rule of a line `IMAGE=NAME`; NAME may have a scheme and a registry, which do not count."""
    found = _DESTINATION.fullmatch(destination)
    assert found is not None
    place = read_reference(found["name"], server)
    tag = f":{place.tag}" if place.tag is not None else ""
    before = f"{image.full_name}" if image.registry else image.name
    exact = image.digest if image.tag is None else image.tag
    mark = "@" if image.tag is None and image.digest is not None else ":"
    return Rename.parse(f"{before}{mark}{exact or 'latest'}={place.name}{tag}")
