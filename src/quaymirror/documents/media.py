"""Exports, and the results of their import."""

from __future__ import annotations

from .common import BlobsJson, TypedDict


class PartJson(TypedDict):
    """The file of a part, and its size in bytes."""

    file: str
    size: int


class CountJson(TypedDict):
    """A number of blobs."""

    blobs: int


class ExportJson(TypedDict):
    """An export: the names of its images, the blobs that it carries and assumes at the receiver, and its parts."""

    version: int
    id: str
    images: list[str]
    carried: BlobsJson
    assumed: CountJson
    parts: list[PartJson]


class ImportedVerdictsJson(TypedDict):
    """Verdicts about signatures that came with exports: the number of those that were recorded, and that of the images
    whose verdicts were ignored, because no allowed signer has signed the export.
    """

    recorded: int
    ignored: int


class ImportJson(TypedDict):
    """The result of an import: names of images by outcome, and everything that is missing.

    `waiting` has the numbers of the parts that an image waits for, `lacking` the images that need a digest which the
    sender assumed here.
    """

    version: int
    exports: list[str]
    imported: list[str]
    unchanged: list[str]
    held: list[str]
    waiting: dict[str, list[int]]
    lacking: dict[str, list[str]]
    problems: list[str]
    verdicts: ImportedVerdictsJson
    stored: BlobsJson
    exit_code: int
