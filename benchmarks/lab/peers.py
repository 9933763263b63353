"""The commands that are measured: ours, the physical limit, and other tools that do the same job."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import certifi

from .before import COMMIT
from .corpus import ORGANIZATION, TAG, Corpus
from .front import Front
from .measure import Contestant

OURS = "quaymirror sync"
TOLD = "quaymirror sync, told the names"
EARLIER = "{}, the earlier release"
BEFORE = f"quaymirror 0.1.0 ({COMMIT})"
BEFORE_TOLD = f"{BEFORE}, told the names"
RAW = "curl x16 of the unique blobs, then openssl dgst"
RAW_64 = "curl x64 of the unique blobs, then openssl dgst"
RAW_4 = "curl x4 of the unique blobs, then openssl dgst"
ARIA_4 = "aria2c, 4 connections a file, then openssl dgst"
ARIA_16 = "aria2c, 16 connections a file, then openssl dgst"
SKOPEO_COPY = "skopeo copy x8 to layouts that share blobs"
SKOPEO_SYNC = "skopeo sync to dir"
OCCYSTRAP = "occystrap -J 3 -j 4 to dir (its defaults)"
OCCYSTRAP_16 = "occystrap -J 16 -j 4 to dir"
CRANE = "crane pull"
REGSYNC = "regsync x4 to one ocidir"
REGSYNC_16 = "regsync x16 to one ocidir"
# Tools that do the same job as quaymirror; the raw limit does only a part of it.
OTHERS = (SKOPEO_COPY, SKOPEO_SYNC, OCCYSTRAP, OCCYSTRAP_16, CRANE, REGSYNC, REGSYNC_16)


PYTHON = sys.executable
_CORES = os.cpu_count() or 1


def to_disk(server: Front, content: Corpus, home: Path) -> list[Contestant]:
    """Return the contestants that can mirror `content` to this machine."""
    return [
        ours(server),
        told(server, content, home),
        skopeo_copy(server, content, home),
        skopeo_sync(server, content, home),
        occystrap(server),
        crane(server, content),
        regsync(server, content, home),
        regsync(server, content, home, parallel=16),
    ]


def ours(server: Front, *options: str, to: str = "{out}/mirror", name: str = OURS, always: bool = True) -> Contestant:
    """Mirror the organization of `server`."""
    words = " ".join(("--progress none", *options) if "--progress" not in options else options)
    selection = f"{ORGANIZATION} '*' {TAG} --server {server.url}"
    command = f"{PYTHON} -m quaymirror sync {selection} {_cafile(server)}--to {to} {words}"
    return Contestant(name, command, always=always)


def told(server: Front, content: Corpus, home: Path, *options: str, to: str = "{out}/mirror") -> Contestant:
    """Mirror the images of a lock file: like other tools, it is told what to fetch."""
    lock = home / "images.lock.json"
    digests = {name: (content.site / "manifests" / name / TAG).readlink() for name in content.images}
    images = [
        {"repository": f"{ORGANIZATION}/{name}", "tag": TAG, "digest": str(digest)} for name, digest in digests.items()
    ]
    lock.write_text(json.dumps({"lock_version": 1, "server": server.url, "images": images}))
    words = " ".join(("--progress none", *options))
    return Contestant(TOLD, f"{PYTHON} -m quaymirror sync --from-lock {lock} {_cafile(server)}--to {to} {words}")


def _cafile(server: Front) -> str:
    return f"--cafile {server.cafile} " if server.cafile else ""


def earlier(contestant: Contestant, python: str) -> Contestant:
    """Return `contestant`, a command of this release, as the one that is installed for the interpreter `python`."""
    name = EARLIER.format(contestant.name)
    return replace(contestant, name=name, command=contestant.command.replace(PYTHON, python), always=True)


def before(contestant: Contestant, source: Path) -> Contestant:
    """Return `contestant`, a sync of this release, as one of commit 92e26c5, whose packages are in `source`."""
    name = contestant.name.replace(OURS, BEFORE)
    return replace(contestant, name=name, environment={"PYTHONPATH": str(source)}, always=True)


def pinned(contestant: Contestant, cores: Sequence[int]) -> Contestant:
    """Return `contestant` on these cores only."""
    command = f"taskset -cp {','.join(map(str, cores))} $$ > /dev/null && {{ {contestant.command}; }}"
    return replace(contestant, command=command, needs=("taskset", *contestant.needs))


def raw(server: Front, content: Corpus, home: Path, parallel: int) -> Contestant:
    """Fetch every distinct blob with curl, `parallel` at a time, and hash all of them with openssl on all cores."""
    urls = home / "urls"
    urls.write_text("".join(f'url = "{server.cdn}/blobs/{digest}"\noutput = "{digest}"\n' for digest in content.unique))
    trust = f"--cacert {server.cafile} " if server.cafile else ""
    many = f"--parallel --parallel-immediate --parallel-max {parallel}"
    fetch = f"curl -sS --no-progress-meter --fail {trust}{many} -K {urls}"
    name = {4: RAW_4, 16: RAW, 64: RAW_64}[parallel]
    return Contestant(name, f"cd {{out}} && {fetch} && {_hash(content)}", ("curl", "openssl"), always=True)


def aria2c(server: Front, content: Corpus, home: Path, connections: int) -> Contestant:
    """Fetch every distinct blob in so many ranges at a time, and hash all of them with openssl on all cores."""
    urls = home / "aria-urls"
    urls.write_text("".join(f"{server.cdn}/blobs/{digest}\n  out={digest}\n" for digest in content.unique))
    trust = f"--ca-certificate={server.cafile}" if server.cafile else ""
    fetch = (
        f"aria2c -q -j 16 -x {connections} -s {connections} -k 1M --file-allocation=none --auto-file-renaming=false"
        f" {trust} -d {{out}} -i {urls}"
    )
    name = {4: ARIA_4, 16: ARIA_16}[connections]
    return Contestant(name, f"cd {{out}} && {fetch} && {_hash(content)}", ("aria2c", "openssl"), always=True)


def skopeo_copy(server: Front, content: Corpus, home: Path, to: str = "") -> Contestant:
    """Copy eight images at a time, into layouts with common blobs, or to another registry."""
    names = home / "names"
    names.write_text("".join(f"{name}\n" for name in content.images))
    shared = "--dest-tls-verify=false" if to else "--dest-shared-blob-dir {out}/blobs"
    copy = (
        f"skopeo --insecure-policy copy -q {_trust(server)} {shared}"
        f" docker://{server.host}/{ORGANIZATION}/%:{TAG} {f'docker://{to}' if to else 'oci:{out}'}/%:{TAG}"
    )
    # The directory is there before eight of them want to make it.
    command = f"mkdir -p {{out}}/blobs && xargs -a {names} -P 8 -I % {copy}"
    return Contestant("skopeo copy x8" if to else SKOPEO_COPY, command, ("skopeo",))


def skopeo_sync(server: Front, content: Corpus, home: Path, to: str = "") -> Contestant:
    """Have skopeo copy one image after the other, into directories or to another registry."""
    verify = ["  tls-verify: false"] if server.cafile is None else [f"  cert-dir: {server.home}/certs"]
    lines = [f"{server.host}:", *verify, "  images:"]
    lines += [f"    {ORGANIZATION}/{name}: ['{TAG}']" for name in content.images]
    words = home / "skopeo.yaml"
    words.write_text("\n".join(lines) + "\n")
    where = f"--dest docker --dest-tls-verify=false {words} {to}" if to else f"--dest dir {words} {{out}}"
    return Contestant(
        "skopeo sync" if to else SKOPEO_SYNC, f"skopeo --insecure-policy sync --src yaml {where}", ("skopeo",)
    )


def occystrap(server: Front, *options: str, images: int = 3, layers: int = 4) -> Contestant:
    """Have occystrap do an organization, as it is meant to be used, but from another server than quay.io."""
    words = "" if server.cafile else "--insecure "
    command = (
        f"{elsewhere(server)} {words}-J {images} -j {layers} process 'quay://{ORGANIZATION}/*:{TAG}'"
        f" 'dir://{{out}}/images?unique_names=true' {' '.join(options)}"
    )
    name = {3: OCCYSTRAP, 16: OCCYSTRAP_16}[images]
    return Contestant(name, f"mkdir -p {{out}}/images && {command}", environment=_authority(server))


def elsewhere(server: Front) -> str:
    """Return how occystrap is started for a server that is not quay.io."""
    return f"{PYTHON} -P {Path(__file__).with_name('elsewhere.py')} {server.url}"


def crane(server: Front, content: Corpus, to: str = "") -> Contestant:
    """Pull all images in one process into one layout, or copy eight at a time to another registry."""
    insecure = "" if server.cafile else "--insecure "
    places = {name: f"{server.host}/{ORGANIZATION}/{name}:{TAG}" for name in content.images}
    if to:
        copies = "".join(f"{place} {to}/{name}:{TAG}\n" for name, place in places.items())
        command = f"printf '{copies}' | xargs -P 8 -n 2 crane copy --insecure"
        return Contestant("crane copy x8", command, ("crane",), environment=_authority(server))

    # Without the option, its layout has no names.
    command = f"crane pull {insecure}--format=oci --annotate-ref {' '.join(places.values())} {{out}}/layout"
    return Contestant(CRANE, command, ("crane",), environment=_authority(server))


def regsync(server: Front, content: Corpus, home: Path, to: str = "", parallel: int = 4) -> Contestant:
    """Have regsync copy `parallel` images at a time, into one layout, where they share blobs, or another registry."""
    certificate = ""
    if server.cafile:
        pem = "".join(f"      {line}\n" for line in server.cafile.read_text().splitlines())
        certificate = f"    tls: enabled\n    regcert: |\n{pem}"

    lines = ["version: 1", f"defaults: {{parallel: {parallel}}}", "creds:", f"  - registry: {server.host}"]
    lines += [f"    reqConcurrent: {parallel}"] if parallel > 4 else []
    lines += [certificate.rstrip() or "    tls: disabled"]
    lines += [f"  - registry: {to.partition('/')[0]}", "    tls: disabled"] if to else []
    lines += ["sync:"]
    for name in content.images:
        target = f"{to}/{name}:{TAG}" if to else f"ocidir://OUT/mirror:{name}"
        lines += [f"  - source: {server.host}/{ORGANIZATION}/{name}:{TAG}", f"    target: {target}", "    type: image"]

    words = home / f"regsync-{parallel}.yaml"
    words.write_text("\n".join(lines) + "\n")
    # Not in the directory of the mirror, whose files are counted.
    command = f"sed s,OUT,{{out}}, {words} > $TMPDIR/regsync.yaml && regsync once -c $TMPDIR/regsync.yaml"
    to_disk = {4: REGSYNC, 16: REGSYNC_16}[parallel]
    return Contestant(f"regsync x{parallel}" if to else to_disk, command, ("regsync",))


@functools.cache
def versions() -> dict[str, str]:
    """Return which versions take part."""
    asked = {
        "skopeo": "skopeo --version",
        "docker-registry": "docker-registry --version",
        "nginx": "nginx -v",
        "curl": "curl --version",
        "aria2c": "aria2c --version",
        "openssl": "openssl version",
        "crane": "crane version",
        "regsync": "regsync version --format '{{.VCSTag}}'",
        "regctl": "regctl version --format '{{.VCSTag}}'",
    }
    found = {name: importlib.metadata.version(name) for name in ("quaymirror", "occystrap", "aiohttp")}
    for name, command in asked.items():
        if shutil.which(name):
            done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20, check=False)
            version = re.search(r"v?(\d+\.\d+[\w.+-]*)", done.stdout + done.stderr)
            found[name] = version[1] if version else "?"

    return found


def _hash(content: Corpus) -> str:
    """Hash the files here on all cores that it may use: few enough at a time that all are busy until the end."""
    some = max(1, min(32, len(content.unique) // (4 * _CORES)))
    return f"ls | grep sha256: | xargs -P $(nproc) -n {some} openssl dgst -sha256 > /dev/null"


def _trust(server: Front) -> str:
    return "--src-tls-verify=false" if server.cafile is None else f"--src-cert-dir {server.home}/certs"


def _authority(server: Front) -> dict[str, str]:
    """Let a program without an option for it trust the lab's CA beside the usual ones.

    Loading these takes time for users, too: with the lab's CA alone, a client would start far faster.
    """
    if server.cafile is None:
        return {}

    bundle = server.home / "authorities.pem"
    bundle.write_text(Path(certifi.where()).read_text() + server.cafile.read_text())
    return {"SSL_CERT_FILE": str(bundle)}
