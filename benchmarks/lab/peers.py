"""The commands that are measured: ours, the physical limit, and other tools that do the same job."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from .corpus import ORGANIZATION, TAG, Corpus
from .front import Front
from .measure import Contestant

OURS = "quaymirror sync"
RAW = "curl x16 of the unique blobs, then openssl dgst"


def fast_directory() -> str | None:
    """Return a directory in memory if there is one: disks differ too much to be compared."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def cold(server: Front, corpus: Corpus, home: Path, *, link: bool = False) -> list[Contestant]:
    """Return who can mirror `corpus` to this machine."""
    found = [Contestant(RAW, _raw(server, corpus, home, 16)), Contestant(OURS, sync(server))]
    if link:
        found.append(Contestant("curl x64 of the unique blobs, then openssl dgst", _raw(server, corpus, home, 64)))

    if shutil.which("skopeo"):
        found.append(Contestant("skopeo copy x8 to layouts that share blobs", _skopeo_copy(server, corpus, home)))
        if not link:
            found.append(Contestant("skopeo sync to dir", _skopeo_sync(server, corpus, home)))

    if shutil.which("crane"):
        names = " ".join(f"127.0.0.1:{server.quay_port}/{ORGANIZATION}/{name}:{TAG}" for name in corpus.images)
        found.append(Contestant("crane pull", f"crane pull --insecure --format=oci {names} {{out}}/layout"))

    return found


def sync(server: Front, *more: str) -> str:
    """Return our own command line; `more` are further options."""
    trust = f" --cafile {server.cafile}" if server.cafile else ""
    return (
        f"{sys.executable} -m quaymirror sync {ORGANIZATION} '*' {TAG} --server {server.url}{trust}"
        f" --to {{out}}/mirror --progress none {' '.join(more)}"
    ).rstrip()


def _raw(server: Front, corpus: Corpus, home: Path, parallel: int) -> str:
    urls = home / f"urls-{server.cdn_port}"
    origin = f"{server.scheme}://127.0.0.1:{server.cdn_port}"
    urls.write_text("".join(f'url = "{origin}/blobs/{digest}"\noutput = "{digest}"\n' for digest in corpus.unique))
    trust = f"--cacert {server.cafile} " if server.cafile else ""
    many = f"--parallel --parallel-immediate --parallel-max {parallel}"
    fetch = f"curl -sS --no-progress-meter --fail {trust}{many} -K {urls}"
    return f"cd {{out}} && {fetch} && ls | xargs -P 2 -n 64 openssl dgst -sha256 > /dev/null"


def _skopeo_copy(server: Front, corpus: Corpus, home: Path) -> str:
    names = home / "names"
    names.write_text("".join(f"{name}\n" for name in corpus.images))
    copy = (
        f"skopeo --insecure-policy copy -q {_trust(server)} --dest-shared-blob-dir {{out}}/blobs"
        f" docker://127.0.0.1:{server.quay_port}/{ORGANIZATION}/%:{TAG} oci:{{out}}/%:{TAG}"
    )
    return f"xargs -a {names} -P 8 -I % {copy}"


def _skopeo_sync(server: Front, corpus: Corpus, home: Path) -> str:
    lines = [f"127.0.0.1:{server.quay_port}:", "  tls-verify: false", "  images:"]
    lines += [f"    {ORGANIZATION}/{name}: ['{TAG}']" for name in corpus.images]
    words = home / "skopeo.yaml"
    words.write_text("\n".join(lines) + "\n")
    return f"skopeo --insecure-policy sync --src yaml --dest dir {words} {{out}}"


def _trust(server: Front) -> str:
    return "--src-tls-verify=false" if server.cafile is None else f"--src-cert-dir {server.home}/certs"
