"""The text of an index."""

from __future__ import annotations

import json

import pytest

from quaymirror.oci import Descriptor, Digest, mediatype
from quaymirror.store import documents
from quaymirror.store.records import ImageRecord

ROOT = Descriptor(mediatype.OCI_MANIFEST, Digest.of(b"root"), 4)
RECORDS = [ImageRecord(f"kolla/{name}:1", "quay.io", ROOT.digest, ROOT, (ROOT,)) for name in ("nova", "heat")]
OTHER = {"digest": "sha256:1", "annotations": {"name": 'ü "x"\n', "none": None}, "urls": [], "platform": {}}


@pytest.mark.parametrize("records", [[], RECORDS], ids=["no images", "two images"])
@pytest.mark.parametrize("others", [[], [OTHER, {}]], ids=["alone", "beside those of another tool"])
def test_an_index_is_json_with_an_indentation_of_one(
    records: list[ImageRecord], others: list[dict[str, object]]
) -> None:
    document = {"annotations": {"a": ["b", {}]}, "manifests": others, "schemaVersion": 1}
    text = documents.project(document, records).decode()
    index = json.loads(text)
    assert text == json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    assert list(index) == ["schemaVersion", "mediaType", "annotations", "manifests"]
    assert index["manifests"][: len(others)] == others
    assert [documents.name_of(entry) for entry in index["manifests"][len(others) :]] == sorted(
        record.name for record in records
    )


def test_entries_of_other_tools_are_kept_however_odd_they_are() -> None:
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]

    others = [{"half a pair": "\ud800"}, {"deep": deep}, OTHER]
    index = json.loads(documents.project({"manifests": others, "\ud800": 1}, RECORDS))
    assert index["manifests"][:3] == others
    assert index["\ud800"] == 1
