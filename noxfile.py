"""Run `nox` for everything that has to pass, `nox -l` for the list of sessions, `nox -s NAME` for one of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import nox

# Tests start hundreds of processes: what they import is compiled once, and the rest of the packages never.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["UV_COMPILE_BYTECODE"] = "0"

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "docs", "build"]

_GROUPS = nox.project.load_toml("pyproject.toml")
# Independent clients and servers that quaymirror is tested against: program and Debian package.
_PEERS = {"skopeo": "skopeo", "docker-registry": "docker-registry", "htpasswd": "apache2-utils"}
# Those that take long to install.
_LARGE_PEERS = {
    "chromium": "chromium",
    "containerd": "containerd",
    "podman": "podman",
    "nginx": "nginx",
    "promtool": "prometheus",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
}
# Further programs for the benchmarks: servers, and tools that measure the physical limit.
_LAB = {
    "nginx": "nginx",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so": "libnginx-mod-http-lua",
    "curl": "curl",
    "openssl": "openssl",
    "aria2c": "aria2",
}
# Test files run side by side, the tests of one file in their order. Tests also wait for processes and clocks, so
# three of them keep two cores busy.
_PARALLEL = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
# The commit that the structure is compared with, and packages beside it.
_BEFORE = "92e26c5"
_REFERENCES = ("httpcore", "anyio", "bandersnatch")


def _install(session: nox.Session, *groups: str) -> None:
    dependencies = [one for group in groups for one in nox.project.dependency_groups(_GROUPS, group)]
    session.install(*dependencies, "-e", ".")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, structure and language."""
    session.install(*nox.project.dependency_groups(_GROUPS, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", "benchmarks/structure.py", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, and that the public API has no unknown ones."""
    _install(session, "types", "test")
    session.run("mypy")
    session.run("basedpyright", "tests/typing")
    session.run("basedpyright", "--verifytypes", "quaymirror", "--ignoreexternal", silent=True)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests but those that take minutes: `nox -s tests -- -k resume` for some of them.

    As root on Debian, install the programs of the tests against real registries and clients first; elsewhere tests are
    skipped whose programs are missing.
    """
    _install_debian(session, _PEERS)
    _install(session, "test", "cluster")
    # The tutorial runs in `build`, from the wheel.
    elsewhere = "--ignore=tests/integration/test_tutorial.py"
    session.run("pytest", *_PARALLEL, "-m", "not soak", elsewhere, *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """Run the unit and contract tests."""
    _install(session, "test")
    session.run(
        "pytest", *_PARALLEL, "-m", "not interop and not soak", "tests/unit", "tests/contract", *session.posargs
    )


@nox.session
def peers(session: nox.Session) -> None:
    """Run the tests against real registries and clients alone, with those that are too large for every run."""
    _install_debian(session, _PEERS | _LARGE_PEERS)
    _install(session, "test", "peers")
    session.run("pytest", "-m", "interop", *session.posargs, env=_base_of_container(session))


def _base_of_container(session: nox.Session) -> dict[str, str]:
    """Make the root file system and the wheels for the image of examples/container, once; needs root on Debian."""
    if os.geteuid() != 0 or not all(map(_is_here, ("mmdebstrap", "buildah", "/usr/bin/python3"))):
        return {}

    directory = Path(session.create_tmp()).resolve()
    root, wheels = directory / "root.tar", directory / "wheels"
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if not root.exists():
        options = ("--variant=apt", "--include=python3,python3-venv,ca-certificates")
        made = directory / "new.tar"
        session.run("mmdebstrap", *options, release["VERSION_CODENAME"], str(made), external=True, silent=True)
        made.rename(root)

    session.run("/usr/bin/python3", "-m", "venv", str(directory / "venv"), external=True)
    words = ("wheel", "--quiet", "--wheel-dir", str(wheels), ".", "hatchling")
    session.run(str(directory / "venv/bin/pip"), *words, external=True)
    return {"PEERS_ROOTFS": str(root), "PEERS_WHEELS": str(wheels)}


@nox.session
def soak(session: nox.Session) -> None:
    """Run the tests that take minutes."""
    _install(session, "test", "cluster")
    session.run("pytest", "-m", "soak", *session.posargs)


@nox.session
def newcomer(session: nox.Session) -> None:
    """Do what the README says in a clone of the last commit, then follow the first pages with that installation."""
    clone = Path(session.create_tmp()).resolve() / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    session.run("git", "clone", "--quiet", ".", str(clone), external=True)
    lines = (clone / "README.md").read_text().splitlines()
    [first] = [line.strip() for line in lines if line.startswith("    python3") and "demo" in line]
    with session.chdir(clone):
        session.run("bash", "-c", first, external=True, silent=True)

    _install(session, "test")
    page = ("tests/integration/test_how_to.py", "-k", "newcomer", *session.posargs)
    session.run("pytest", *page, env={"NEWCOMER_PROGRAM": str(clone / ".venv/bin/quaymirror")})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz every parser of outside input for five minutes: `nox -s fuzz -- --seconds 3600` for longer."""
    _install(session, "test", "fuzz")
    session.run("python", "tests/fuzz.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation. Generated parts have to be up to date; a warning is an error."""
    _install(session, "docs")
    session.run("python", "docs/generate.py", "--check")
    session.run("python", "benchmarks/report.py", "--check")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build")


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel in dist/, and run the commands of the README and the tutorial from the wheel."""
    dist = Path("dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    session.install("build[uv]")
    session.run("python", "-m", "build", "--installer", "uv", "--outdir", str(dist), silent=True)
    [wheel] = dist.glob("*.whl")
    session.install(str(wheel))
    with session.chdir(session.create_tmp()):
        session.run("quaymirror", "--version")
        session.run("quaymirror", "demo", "--progress", "plain", "--count", "10")

    session.install(*nox.project.dependency_groups(_GROUPS, "test"))
    session.run("pytest", "tests/integration/test_tutorial.py", *session.posargs)


# uv makes environments without pip.
@nox.session(venv_backend="virtualenv")
def release(session: nox.Session) -> None:
    """Build a release in dist/: sdist, wheel, an SBOM (CycloneDX) of what the wheel brings along, and SHA256SUMS."""
    dist = Path("dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    session.install("build", "twine", "cyclonedx-bom>=7,<8")
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    [wheel] = dist.glob("*.whl")
    name, version, *_ = wheel.name.split("-")

    # An environment of its own: the SBOM lists it, and the wheel works without anything else.
    fresh = Path(session.create_tmp()).resolve() / "fresh"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(fresh))
    into = ("--python", str(fresh / "bin" / "python"))
    session.run("python", "-m", "pip", *into, "install", "--quiet", "--find-links", str(dist), f"{name}=={version}")
    program = str(fresh / "bin" / name)
    session.run(program, "demo", "--progress", "none", "--count", "10", external=True, silent=True)
    if f"version {version}" not in str(session.run(program, "--version", external=True, silent=True)):
        session.error(f"the wheel of {version} says that it is another version")

    sbom = dist / f"{name}-{version}.cdx.json"
    words = ("--pyproject", "pyproject.toml", "--mc-type", "application", "--output-reproducible", "-o", str(sbom))
    session.run("cyclonedx-py", "environment", *words, into[1])
    document = json.loads(sbom.read_text())
    document["metadata"]["component"]["version"] = version  # which is not in pyproject.toml
    sbom.write_text(json.dumps(document, indent=2) + "\n")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(dist.iterdir())]
    (dist / "SHA256SUMS").write_text("".join(lines))


@nox.session
def structure(session: nox.Session) -> None:
    """Print the measures of the structure, beside those of an earlier commit and of other projects."""
    _install(session)
    session.install("--no-deps", *_REFERENCES)
    before = Path(session.create_tmp()) / _BEFORE
    before.mkdir(exist_ok=True)
    archive = f"git archive {_BEFORE} src | tar -x -C '{before}'"
    session.run("sh", "-c", archive, external=True, silent=True)
    subject = f"{_BEFORE}={before / 'src' / 'quaymirror'}"
    session.run("python", "benchmarks/structure.py", *(session.posargs or [subject, *_REFERENCES]))


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks: all, or `nox -s bench -- wan --rounds 5`; `-- --check` compares with the recorded results."""
    _install_debian(session, _PEERS | _LAB)
    _install(session, "test")
    session.run("python", "benchmarks", *session.posargs)
    session.run("python", "benchmarks/report.py")


def _install_debian(session: nox.Session, programs: dict[str, str]) -> None:
    missing = [package for program, package in programs.items() if not _is_here(program)]
    if not missing:
        return

    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        session.warn(f"tests that need {', '.join(missing)} are skipped: install these packages to run them")
        return

    session.run("apt-get", "update", "-q", external=True, silent=True)
    for package in missing:
        # Packages that a release lacks are left out, as on machines without apt-get.
        install = ("apt-get", "install", "-qy", "--no-install-recommends", package)
        session.run(*install, external=True, silent=True, success_codes=[0, 100])


def _is_here(program: str) -> bool:
    return Path(program).exists() or shutil.which(program) is not None
