"""`nox` runs everything that has to pass; `nox -l` lists what there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "docs"]

_GROUPS = nox.project.load_toml("pyproject.toml")
# Independent clients and servers that the tests hold quaymirror against: program and Debian package.
_PEERS = {"skopeo": "skopeo", "docker-registry": "docker-registry", "htpasswd": "apache2-utils"}
# What the lab needs besides: servers, and what the physical limit is measured with.
_LAB = {
    "nginx": "nginx",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so": "libnginx-mod-http-lua",
    "curl": "curl",
    "openssl": "openssl",
    "aria2c": "aria2",
}


def _install(session: nox.Session, *groups: str) -> None:
    for group in groups:
        session.install(*nox.project.dependency_groups(_GROUPS, group))

    session.install("-e", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*nox.project.dependency_groups(_GROUPS, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    _install(session, "lint", "test")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, those against real peers included; installs the peers where it may."""
    _install_debian(session, _PEERS)
    _install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz every parser of outside input for five minutes: `nox -s fuzz -- --seconds 3600` for longer."""
    _install(session, "test", "fuzz")
    session.run("python", "tests/fuzz.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; what comes from the code has to be up to date, and a warning is an error."""
    _install(session, "docs")
    session.run("python", "docs/generate.py", "--check")
    session.run("python", "benchmarks/report.py", "--check")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the lab, all of it or a scenario: `nox -s bench -- wan --rounds 5`; `-- --check`: have we got slower?"""
    _install_debian(session, _PEERS | _LAB)
    _install(session, "test")
    session.run("python", "benchmarks", *session.posargs)
    session.run("python", "benchmarks/report.py")


def _install_debian(session: nox.Session, programs: dict[str, str]) -> None:
    missing = [package for program, package in programs.items() if not _is_here(program)]
    if not missing:
        return

    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        session.warn(f"what needs {', '.join(missing)} is left out: install these packages to have it")
        return

    session.run("apt-get", "update", "-q", external=True, silent=True)
    for package in missing:
        # What a release does not have is left out, as it is where nobody may install anything.
        install = ("apt-get", "install", "-qy", "--no-install-recommends", package)
        session.run(*install, external=True, silent=True, success_codes=[0, 100])


def _is_here(program: str) -> bool:
    return Path(program).exists() or shutil.which(program) is not None
