"""Certificates of one registry: certs.d directories, invalid files, and the use of client certificates."""

from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path
from unittest.mock import Mock

import pytest
import trustme

from quaymirror.errors import ConfigError
from quaymirror.http.tls import Trust, certificate_directory, system_context, tls_context, without_authorities
from quaymirror.process import Process


def test_without_a_word_there_is_no_context_of_our_own() -> None:
    assert tls_context(Trust()) is None


def test_a_directory_adds_authorities_to_those_of_the_system(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.crt")
    (tmp_path / "README").write_text("not read")
    context = tls_context(Trust(directory=tmp_path))
    assert context is not None
    usual = ssl.create_default_context()
    assert context.cert_store_stats()["x509_ca"] == usual.cert_store_stats()["x509_ca"] + 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_verification_is_disabled_only_on_request() -> None:
    context = tls_context(Trust(verify=False))
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("is_command", [True, False])
def test_what_the_command_imports_loads_no_authorities(
    is_command: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(Process, "is_command", is_command)
    with without_authorities():
        context = ssl.create_default_context()

    assert context.cert_store_stats()["x509_ca"] == (0 if is_command else 1)
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] == 1


def test_without_descriptors_no_context_without_authorities_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    system_context.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(OSError, match="Too many open files"):
            system_context()

    assert system_context() is system_context()


@pytest.mark.parametrize("name", ["ca.crt", "client.cert"])
def test_a_file_that_makes_no_sense_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("nonsense")
    (tmp_path / "client.key").write_text("nonsense")
    with pytest.raises(ConfigError, match=name):
        tls_context(Trust(directory=tmp_path))


def test_a_certificate_without_its_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "client.cert").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"client\.key"):
        tls_context(Trust(directory=tmp_path))


def test_our_own_certificate_is_not_for_where_a_registry_sends_us(tmp_path: Path) -> None:
    (tmp_path / "client.cert").write_text("not even looked at")
    assert tls_context(Trust(directory=tmp_path), is_own=False) is not None


def test_a_missing_cafile_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CA certificates"):
        tls_context(Trust(cafile=tmp_path / "none.pem"))


def test_the_users_own_directory_comes_before_the_systems(tmp_path: Path) -> None:
    own, system = tmp_path / "config/containers/certs.d", tmp_path / "system"
    env = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert certificate_directory("r.example:5000", env, system=(system,)) is None
    (system / "r.example:5000").mkdir(parents=True)
    assert certificate_directory("r.example:5000", env, system=(system,)) == system / "r.example:5000"
    (own / "r.example:5000").mkdir(parents=True)
    assert certificate_directory("r.example:5000", env, system=(system,)) == own / "r.example:5000"
    assert certificate_directory("r.example", env, system=(system,)) is None
    (system / "r.example:443").mkdir()
    assert certificate_directory("r.example", env, system=(system,)) == system / "r.example:443"
