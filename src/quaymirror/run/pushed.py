"""The images that shards pushed, as part of their reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..documents.report import ContentJson, PushedImageJson, PushedJson, ShardJson
from ..oci import Descriptor, Digest
from ..shards.plan import Division
from ..store.records import ImageRecord


def shard_json(division: Division, pushed: Sequence[ImageRecord]) -> ShardJson:
    """Return the part of a report that only shards have."""
    plan = division.plan
    return {
        "plan": plan.id,
        "server": plan.document["server"],
        "selections": plan.document["selections"],
        "index": division.share.index,
        "count": division.share.count,
        "images": len(plan.images),
        "plan_exit_code": plan.document["exit_code"],
        "failed_checks": plan.document["failed_checks"],
        "unmatched": plan.document["unmatched"],
        "repositories": plan.document["repositories"],
        "pushed": pushed_json(pushed),
    }


def pushed_json(records: Iterable[ImageRecord]) -> PushedJson:
    """Return records of images as JSON values; content that several images need is there once."""
    contents: list[ContentJson] = []
    places: dict[Digest, int] = {}

    def place(node: Descriptor) -> int:
        if node.digest not in places:
            places[node.digest] = len(contents)
            contents.append({"mediaType": node.media_type, "digest": str(node.digest), "size": node.size})

        return places[node.digest]

    images: list[PushedImageJson] = [
        {
            "name": record.name,
            "registry": record.registry,
            "source": str(record.source),
            "platforms": record.platforms,
            "mirrored": record.mirrored,
            "root": place(record.root),
            "needs": [place(node) for node in record.contents],
        }
        for record in records
    ]
    return {"contents": contents, "images": images}


def pushed_records(document: PushedJson, run: str) -> list[ImageRecord]:
    """Return the records of `pushed_json`, as those of `run`.

    :raises InvalidName, UnsupportedContent: if a name or a descriptor is malformed.
    :raises KeyError, TypeError, ValueError, IndexError: if the document has another form.
    """
    contents = [Descriptor.parse(node, where=f"contents[{at}]") for at, node in enumerate(document["contents"])]
    return [
        ImageRecord(
            name=str(image["name"]),
            registry=str(image["registry"]),
            source=Digest.parse(image["source"]),
            root=contents[image["root"]],
            contents=tuple(contents[at] for at in image["needs"]),
            platforms=str(image["platforms"]),
            run=run,
            mirrored=float(image["mirrored"]),
        )
        for image in document["images"]
    ]
