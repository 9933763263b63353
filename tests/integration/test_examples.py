"""The examples, taken by those whom they are for."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import peers
import pytest
from organizations import TAG, kolla

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]


def test_registries_conf_sends_skopeo_to_the_mirror(tmp_path: Path) -> None:
    _, images = kolla(2)
    name, image = next((name, image) for name, image in images.items() if not image.is_index)
    with peers.docker_registry(tmp_path) as url:
        peers.push(url, f"kolla/{name}", TAG, image)
        text = (EXAMPLES / "use-the-mirror/registries.conf").read_text()
        host = url.removeprefix("http://")
        # Tests have no certificate; nor is there a quay.io that must not be asked.
        text = text.replace("registry.example:5000", host) + "insecure = true\n"
        conf = tmp_path / "registries.conf"
        conf.write_text(text)
        place = f"docker://quay.io/kolla/{name}:{TAG}"
        raw = peers.skopeo("--registries-conf", str(conf), "inspect", "--raw", place)

    assert raw.encode() == image.raw


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in (EXAMPLES / "systemd").iterdir():
        text = unit.read_text().replace("/usr/local/bin/quaymirror", "/bin/true").replace("man:quaymirror(1)", "")
        (tmp_path / unit.name).write_text(text)

    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "quaymirror" not in done.stderr
