"""A configuration of nginx that serves the images of one moment without a program of ours, for everyone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..oci import Digest, mediatype
from ..store.fsops import make_directory, replace_file
from .mirror import ServedMirror
from .options import address

_CONF = r"""# Written by quaymirror serve --write-nginx: run it again after each sync.
# Include this file in the block http of nginx.conf.
map_hash_max_size 262144;
map_hash_bucket_size 512;

# The digest that a request for a manifest means, and its type and file.
map $uri $quaymirror_digest {{
    default "";
    "~^/v2/[a-z0-9][a-z0-9._/-]*/manifests/(?<quaymirror_given>sha(256|512):[0-9a-f]+)$" $quaymirror_given;
{tags}}}
map $quaymirror_digest $quaymirror_type {{
    default "";
{types}}}
map $quaymirror_digest $quaymirror_file {{
    default "none";
    "~^(?<quaymirror_algorithm>sha256|sha512):(?<quaymirror_hex>[0-9a-f]+)$" $quaymirror_algorithm/$quaymirror_hex;
}}
# Lists of tags and referrers.
map $uri $quaymirror_list {{
    default "none";
{lists}}}

server {{
    listen {listen};
    root {root};
    etag off;
    default_type "";
    types {{ }}
    error_page 404 @missing;
    add_header Docker-Distribution-Api-Version registry/2.0 always;

    location = /v2/ {{ default_type application/json; return 200 "{{}}"; }}
    location = /v2/_catalog {{ default_type application/json; alias {directory}/catalog.json; }}
    location ~ "^/v2/.+/manifests/(?!(sha256:[0-9a-f]{{64}}|sha512:[0-9a-f]{{128}})$)[^/]*:" {{
        default_type application/json;
        return 400 '{{"errors":[{{"code":"DIGEST_INVALID","message":"not a digest","detail":null}}]}}';
    }}
    location ~ ^/v2/.+/manifests/ {{
        if ($quaymirror_type = "") {{ return 404; }}
        add_header Content-Type $quaymirror_type;
        add_header Docker-Content-Digest $quaymirror_digest;
        add_header Docker-Distribution-Api-Version registry/2.0;
        try_files /blobs/$quaymirror_file =404;
    }}
    location ~ ^/v2/.+/blobs/(sha256|sha512):([0-9a-f]+)$ {{
        default_type application/octet-stream;
        add_header Docker-Content-Digest $1:$2;
        add_header Docker-Distribution-Api-Version registry/2.0;
        try_files /blobs/$1/$2 =404;
    }}
    location ~ ^/v2/.+/tags/list$ {{
        default_type application/json;
        root {directory};
        try_files /$quaymirror_list =404;
    }}
    location ~ "^/v2/.+/referrers/(sha256:[0-9a-f]{{64}}|sha512:[0-9a-f]{{128}})$" {{
        default_type {index_type};
        root {directory};
        try_files /$quaymirror_list /empty.json =404;
    }}
    location / {{ return 404; }}
    location @missing {{
        default_type application/json;
        return 404 '{{"errors":[{{"code":"UNKNOWN","message":"not in this mirror","detail":null}}]}}';
    }}
}}
"""
# Characters with a meaning in nginx.conf; names of images have none of them.
_UNSAFE = set("\"'\\;{}$ \t\r\n#")


def write_nginx(mirror: ServedMirror, root: Path, directory: Path, listen: str) -> int:
    """Write `nginx.conf` and the lists it needs to `directory`; return the number of images. It blocks.

    Everyone who can reach nginx can pull every blob. Images that are published later need another call.

    :raises ConfigError: if a path can't be written in a configuration of nginx.
    :raises StoreError: if the disk fails.
    """
    root, directory = root.absolute(), directory.absolute()
    for path in (root, directory):
        if _UNSAFE & set(str(path)):
            raise ConfigError(f"nginx can't use the path {str(path)!r}: it has characters with a meaning there")

    make_directory(directory)
    lists = dict(_lists(mirror))
    names = {uri: f"list-{number}.json" for number, uri in enumerate(sorted(lists))}
    files = {names[uri]: content for uri, content in lists.items()}
    catalog = sorted(filter(None, map(mirror.full_name, mirror.published.repositories)))
    files |= {"catalog.json": {"repositories": catalog}, "empty.json": _index([])}
    for name, content in files.items():
        replace_file(directory / name, json.dumps(content, ensure_ascii=False).encode(), sync=False)

    host, port = address(listen)
    text = _CONF.format(
        tags=_map(_tags(mirror)),
        types=_map(_types(mirror)),
        lists=_map(names),
        listen=f"{f'[{host}]' if ':' in host else host or '*'}:{port}",
        root=root,
        directory=directory,
        index_type=mediatype.OCI_INDEX,
    )
    replace_file(directory / "nginx.conf", text.encode(), sync=False)
    return sum(len(mirror.published.images(name)) for name in mirror.published.repositories)


def _map(entries: Mapping[str, str]) -> str:
    return "".join(f'    "{key}" "{value}";\n' for key, value in sorted(entries.items()))


def _tags(mirror: ServedMirror) -> dict[str, str]:
    return {
        f"/v2/{mirror.full_name(name)}/manifests/{tag}": str(image.root.digest)
        for name, tags in mirror.published.tags.items()
        for tag, image in tags.items()
    }


def _types(mirror: ServedMirror) -> dict[str, str]:
    found: dict[str, str] = {}
    for roots in mirror.published.roots().values():
        for root in roots.values():
            contents = mirror.contents(root)
            found |= {str(digest): contents.nodes[digest].media_type for digest in contents.manifests}

    return {digest: media_type for digest, media_type in found.items() if not _UNSAFE & set(media_type)}


def _lists(mirror: ServedMirror) -> Iterator[tuple[str, Any]]:
    for name in mirror.published.repositories:
        full = mirror.full_name(name)
        yield f"/v2/{full}/tags/list", {"name": full, "tags": sorted(mirror.published.tags.get(name, {}))}
        for subject in mirror.subjects(name):
            yield f"/v2/{full}/referrers/{subject}", _index(mirror.referrers(name, Digest.parse(subject)))


def _index(entries: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": entries}
