from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest
import zstandard

from quaymirror import deflate
from quaymirror.emit.inflate import inflate
from quaymirror.errors import DigestMismatch, QuaymirrorError, UnsupportedContent
from quaymirror.oci import Digest

CONTENT = random.Random(1).randbytes(3_000_000) + bytes(2_000_000)
HALF = len(CONTENT) // 2
COMPRESSED = {
    "gzip": gzip.compress(CONTENT, 1),
    "gzip of two members": gzip.compress(CONTENT[:HALF], 1) + gzip.compress(CONTENT[HALF:], 9),
    "gzip of many small members": b"".join(
        gzip.compress(CONTENT[at : at + 50_000], 1) for at in range(0, len(CONTENT), 50_000)
    ),
    "gzip padded with zeros": gzip.compress(CONTENT, 1) + bytes(3_000_000),
    "zstd": zstandard.compress(CONTENT),
    "zstd of two frames": zstandard.compress(CONTENT[:HALF]) + zstandard.compress(CONTENT[HALF:]),
    "zstd after a skippable frame": b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc" + zstandard.compress(CONTENT),
    "not compressed": CONTENT,
}


@pytest.fixture(autouse=True, params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(deflate, "_isal", lambda: None)
    else:
        assert deflate._isal() is not None


def run(tmp_path: Path, blob: bytes, content: bytes = CONTENT, **options: int) -> bytes:
    source, final = tmp_path / "blob", tmp_path / "layer"
    source.write_bytes(blob)
    size = inflate(source, final, Digest.of(content), **options)
    assert size == len(final.read_bytes())
    return final.read_bytes()


@pytest.mark.parametrize("form", COMPRESSED)
def test_every_form_of_a_layer_is_decompressed_whole(tmp_path: Path, form: str) -> None:
    assert run(tmp_path, COMPRESSED[form]) == CONTENT


def test_an_empty_layer_stays_empty(tmp_path: Path) -> None:
    assert run(tmp_path, gzip.compress(b""), b"") == b""


@pytest.mark.parametrize(
    ("blob", "error", "words"),
    [
        (COMPRESSED["gzip"][:-20], UnsupportedContent, "truncated"),
        (COMPRESSED["gzip"][:1_000_000] + b"??" + COMPRESSED["gzip"][1_000_002:], QuaymirrorError, "layer"),
        (COMPRESSED["gzip"] + b"no header of gzip", UnsupportedContent, "not valid gzip"),
        (COMPRESSED["zstd"][:-20], DigestMismatch, "diff_id"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 20, UnsupportedContent, "not valid zstd"),
        (gzip.compress(b"another layer"), DigestMismatch, "diff_id"),
        (b"", DigestMismatch, "diff_id"),
    ],
    ids=["cut gzip", "damaged gzip", "gzip and more", "cut zstd", "damaged zstd", "another layer", "nothing"],
)
def test_a_wrong_layer_leaves_no_file_behind(
    tmp_path: Path, blob: bytes, error: type[QuaymirrorError], words: str
) -> None:
    with pytest.raises(error, match=words):
        run(tmp_path, blob)

    assert [path.name for path in tmp_path.iterdir()] == ["blob"]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_a_layer_that_becomes_too_large_is_given_up_early(tmp_path: Path, compress: object) -> None:
    assert callable(compress)
    bomb = compress(bytes(50_000_000))
    assert len(bomb) * 200 < 50_000_000
    with pytest.raises(UnsupportedContent, match="decompresses to more than"):
        run(tmp_path, bomb, always_fine=1_000_000)

    assert [path.name for path in tmp_path.iterdir()] == ["blob"]
