"""Images in YAML documents with a kind: manifests of hauler, ImageSetConfigurations of oc-mirror, locks of imgpkg."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import ConfigError
from ..values import dataclass
from ..yaml_text import load_documents

# The list of each kind, the key of an image there, and the keys of its name in the mirror and of mere descriptions.
_LISTS = {
    "Images": (("spec", "images"), "name", "rewrite", ()),
    "ImageSetConfiguration": (("mirror", "additionalImages"), "name", "", ()),
    "ImagesLock": (("images",), "image", "", ("annotations",)),
}
_HEAD = frozenset({"apiVersion", "kind", "metadata"})


@dataclass(frozen=True, slots=True)
class DocumentedImage:
    """One image of a document, the `place` where it stands, and its name in the mirror, "" if it has no other one."""

    place: str
    text: str
    rewrite: str = ""


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """The images of all documents of a file, and the parts that are not images of a list."""

    images: tuple[DocumentedImage, ...]
    left_out: tuple[str, ...]


def read_documents(text: str, name: str) -> ImageDocuments:
    """Return the images in `text`, the content of the file called `name`.

    :raises ConfigError: if it is not YAML, or an entry of a list names no image.
    """
    images: list[DocumentedImage] = []
    left_out: list[str] = []
    for document in load_documents(text, name):
        kind = document.get("kind") if isinstance(document, dict) else None
        if kind not in _LISTS:
            left_out.append(f"{str(kind)[:100]}: not a list of images")
            continue

        (*parents, last), *_ = _LISTS[kind]
        left_out += _others(document, parents, last)
        for place, entry in _entries(document, [*parents, last]):
            images.append(_image(kind, f"{name}: {place}", entry))
            left_out += [f"{place}.{key}: not for single images" for key in _unknown(kind, entry)]

    return ImageDocuments(tuple(images), tuple(left_out))


def _others(document: dict[str, Any], parents: list[str], last: str) -> Iterator[str]:
    """Yield the parts of `document` beside its list."""
    where, table = "", document
    for key in [*parents, last]:
        yield from (
            f"{where}{other}: not images of a list" for other in table if other not in _HEAD | {key, "metadata"}
        )
        where, table = f"{where}{key}.", _table(table.get(key))

    notes = _table(_table(document.get("metadata")).get("annotations"))
    yield from (f"metadata.annotations.{key}: not images of a list" for key in notes)


def _entries(document: dict[str, Any], path: list[str]) -> Iterator[tuple[str, Any]]:
    value: Any = document
    for key in path:
        value = _table(value).get(key)

    place = ".".join(path)
    for number, entry in enumerate(value if isinstance(value, list) else []):
        yield f"{place}[{number}]", entry


def _image(kind: str, place: str, entry: Any) -> DocumentedImage:
    _, key, rewrite, _ = _LISTS[kind]
    found = _table(entry)
    if not isinstance(found.get(key), str):
        raise ConfigError(f"{place}: {key} is missing")

    return DocumentedImage(place, found[key], str(found.get(rewrite) or ""))


def _unknown(kind: str, entry: Any) -> list[str]:
    _, key, rewrite, descriptions = _LISTS[kind]
    return [str(other) for other in _table(entry) if other not in {key, rewrite, *descriptions}]


def _table(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
