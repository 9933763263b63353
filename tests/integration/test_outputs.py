"""The outputs of runs: reports, lock files, metrics, pings, logs; and the jobs of a configuration file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import jsonschema
import layouts
import pytest
from commands import run
from organizations import TAG, kolla
from prometheus_client.parser import text_string_to_metric_families

from quaymirror.errors import ExitCode
from quaymirror.run.notify import notification, notify
from quaymirror.testing import Fault, QuayServer, Status

# Tests have a server that is none in the environment, which counts before a file.
NO_SERVER = {"QUAYMIRROR_SERVER": ""}
REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
REPORT = jsonschema.Draft202012Validator(json.loads((REFERENCE / "report.schema.json").read_text()))


@asynccontextmanager
async def server_with_trouble(count: int = 6) -> AsyncIterator[tuple[QuayServer, list[str]]]:
    """Serve an organization in which one image can't be pulled and one repository can't be checked."""
    registry, images = kolla(count)
    names = sorted(images)
    async with QuayServer(registry) as server:
        server.faults.append(Fault(rf"^/v2/kolla/{names[0]}/manifests/.*", Status(403)))
        server.faults.append(Fault(rf"^/api/v1/repository/kolla/{names[1]}/tag/", Status(403)))
        server.faults.append(Fault(rf"^/v2/kolla/{names[2]}/manifests/.*", Status(503), times=1))
        yield server, names


async def test_a_report_fits_its_schema_and_tells_failures_with_side_and_phase(tmp_path: Path) -> None:
    async with server_with_trouble() as (server, names):
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--report", "report.json"]
        await run(*words, cwd=tmp_path, check=3)

    report = json.loads((tmp_path / "report.json").read_text())
    REPORT.validate(report)
    failed = {outcome["reference"]: outcome["error"] for outcome in report["outcomes"] if outcome["error"]}
    assert {(error["side"], error["phase"]) for error in failed.values()} == {
        ("source", "resolve"),
        ("source", "discover"),
    }
    assert sorted(failed) == [f"{server.host}/kolla/{name}:{TAG}" for name in names[:2]]
    assert report["images"] == {"mirrored": 4, "unchanged": 0, "skipped": 0, "failed": 2, "refused": 0}
    assert report["hosts"][server.host]["retries"] == 1


async def test_a_lock_file_of_a_dry_run_is_what_another_run_mirrors(tmp_path: Path) -> None:
    registry, images = kolla(5)
    async with QuayServer(registry) as server:
        await run(
            "sync",
            "kolla",
            "*",
            TAG,
            "--server",
            server.url,
            "--dry-run",
            "--lock-file",
            "lock.json",
            cwd=tmp_path,
            check=0,
        )
        assert not (tmp_path / "mirror").exists()
        asked = server.count("^/api/")
        # Its digests are known; signatures would have to be looked up.
        command = ["sync", "--from-lock", "lock.json", "--referrers", "none"]
        await run(*command, cwd=tmp_path, check=0, env=NO_SERVER)
        assert server.count("^/api/") == asked

    lock = json.loads((tmp_path / "lock.json").read_text())
    assert {image["repository"]: image["digest"] for image in lock["images"]} == {
        f"kolla/{name}": image.digest for name, image in images.items()
    }
    assert len(layouts.names(tmp_path / "mirror")) == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("{}", "not a lock file of version 1"),
        ('{"lock_version": 1, "server": "https://quay.io", "images": []}', "locks no images"),
        ('{"lock_version": 1, "server": "https://quay.io", "images": [{"repository": "kolla/x"}]}', "not a lock file"),
        (
            '{"lock_version": 1, "server": "https://quay.io", "images": [{"repository": "kolla/../x", "tag": "a",'
            ' "digest": "sha256:' + "a" * 64 + '"}]}',
            "not a",
        ),
    ],
)
async def test_a_lock_file_that_is_none_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "lock.json").write_text(content)
    done = await run("sync", "--from-lock", "lock.json", cwd=tmp_path, check=2)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


async def test_metrics_keep_the_time_of_the_last_success(tmp_path: Path) -> None:
    registry, _ = kolla(3)
    async with QuayServer(registry) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--metrics-textfile", "quaymirror.prom"]
        await run(*words, cwd=tmp_path, check=0)
        first = metrics(tmp_path / "quaymirror.prom")
        server.faults.append(Fault("^/api/.*", Status(403)))
        await run(*words, "--full-check", cwd=tmp_path, check=4)
        second = metrics(tmp_path / "quaymirror.prom")

    assert first["quaymirror_images", "mirrored"] == 3
    assert (first["quaymirror_run_exit_code", ""], second["quaymirror_run_exit_code", ""]) == (0, 4)
    success = ("quaymirror_last_success_timestamp_seconds", "")
    assert first[success] == second[success]


@pytest.mark.interop
async def test_metrics_of_jobs_in_one_file_do_not_erase_each_other(tmp_path: Path) -> None:
    registry, images = kolla(3)
    (tmp_path / "quaymirror.toml").write_text(
        "".join(f'[jobs.{name}]\norganization = "kolla"\ntags = ["{TAG}"]\nto = "{name}"\n' for name in ("a", "b"))
    )
    async with QuayServer(registry) as server:
        server.faults.append(Fault("^/v2/.*", Status(403), times=3))
        env = {"QUAYMIRROR_SERVER": server.url}
        words = ("--metrics-textfile", "quaymirror.prom")
        await run("run", "a", *words, cwd=tmp_path, check=4, env=env)
        before = job_metrics(tmp_path / "quaymirror.prom")
        await run("run", "b", *words, cwd=tmp_path, check=0, env=env)
        registry.organization("kolla").delete_repository(min(images))
        await run("run", "b", *words, cwd=tmp_path, check=0, env=env)
        after = job_metrics(tmp_path / "quaymirror.prom")

    assert before["last_success_timestamp_seconds", "a", ""] == 0
    assert {key: value for key, value in after.items() if key[1] == "a"} == before
    assert after["last_success_timestamp_seconds", "b", ""] > 1e9
    assert after["changed_images", "b", "missing"] == 1
    assert after["target_images", "b", ""] == 3
    assert after["target_bytes", "b", ""] > 0
    assert after["target_free_bytes", "b", ""] > 0
    assert "quaymirror_build_info{version=" in (tmp_path / "quaymirror.prom").read_text()
    check = ["promtool", "check", "metrics"]
    subprocess.run(check, input=(tmp_path / "quaymirror.prom").read_bytes(), check=True)


async def test_metrics_of_a_job_that_has_not_run_for_90_days_are_dropped(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    file, now = tmp_path / "quaymirror.prom", time.time()
    file.write_text(
        "".join(
            f'quaymirror_{name}{{target="m",mirror_job="{job}"}} {now - days * 86400}\n'
            for job, days in (("former", 91), ("rare", 89))
            for name in ("run_started_timestamp_seconds", "last_success_timestamp_seconds")
        )
    )
    async with QuayServer(registry) as server:
        words = ("--server", server.url, "--metrics-textfile", str(file))
        await run("sync", "kolla", "*", TAG, *words, cwd=tmp_path, check=0)

    assert {job for _, job, _ in job_metrics(file)} == {"rare", ""}


def job_metrics(file: Path) -> dict[tuple[str, str, str], float]:
    samples = [sample for family in text_string_to_metric_families(file.read_text()) for sample in family.samples]
    return {
        (
            sample.name.removeprefix("quaymirror_"),
            sample.labels["mirror_job"],
            sample.labels.get("change", "") + sample.labels.get("status", ""),
        ): sample.value
        for sample in samples
        if "mirror_job" in sample.labels
    }


async def test_a_command_gets_the_summary_of_each_run(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    (tmp_path / "tell.sh").write_text('cat > "told.$QUAYMIRROR_EXIT_CODE"; echo noise; env > env')
    words = ["sync", "kolla", "*", TAG, "--notify-command", "sh tell.sh"]
    async with QuayServer(registry) as server:
        secret = {"QUAYMIRROR_RETRIES": "5"}
        done = await run(*words, "--server", server.url, cwd=tmp_path, check=0, env=secret)
        await run(*words[:3], "nope", *words[4:], "--server", server.url, cwd=tmp_path, check=9)
        await run(*words, "--server", server.url, "--to", "tell.sh", cwd=tmp_path, check=2)

    schema = jsonschema.Draft202012Validator(json.loads((REFERENCE / "notification.schema.json").read_text()))
    documents = {code: json.loads((tmp_path / f"told.{code}").read_text()) for code in (0, 9, 2)}
    for code, document in documents.items():
        schema.validate(document)
        assert document["exit_code"] == code

    assert documents[0]["runs"][0]["images"]["mirrored"] == 2
    assert documents[0]["runs"][0]["problem"] == ""
    assert "nope" in documents[9]["runs"][0]["problem"]
    assert documents[2]["error"]
    assert done.stdout == ""
    assert "QUAYMIRROR_RETRIES" not in (tmp_path / "env").read_text()


def test_a_command_that_fails_or_takes_too_long_is_a_line(tmp_path: Path) -> None:
    document = notification([], ExitCode.OK)
    env = {"PATH": "/usr/bin:/bin"}
    assert notify("sh -c 'exit 3'", document, env) == "ended with exit code 3"
    assert notify("/does/not/exist", document, env) == "can't be run: No such file or directory"
    assert notify("true", document, env) == ""
    assert notify("sh -c 'sleep 100 & sleep 100'", document, env, seconds=0.2) == "killed after 0.2 s"


async def test_a_command_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    registry, _ = kolla(1)
    async with QuayServer(registry) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--notify-command"]
        done = await run(*words, "false", cwd=tmp_path, check=0)
        refused = await run(*words, "'", cwd=tmp_path, check=2)

    assert "quaymirror: --notify-command: false: ended with exit code 1\n" in done.stderr
    assert "not a command: no closing quotation" in refused.stderr


def metrics(file: Path) -> dict[tuple[str, str], float]:
    samples = [sample for family in text_string_to_metric_families(file.read_text()) for sample in family.samples]
    return {(sample.name, sample.labels.get("status", "")): sample.value for sample in samples}


@contextmanager
def pinged(status: int = 200) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Listen for pings; yield the URL and the received pings."""
    came: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}/0b1c-secret", came
        finally:
            listener.shutdown()
            thread.join()


async def test_pings_tell_of_the_start_and_of_the_end(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    with pinged() as (url, came):
        async with QuayServer(registry) as server:
            await run("sync", "kolla", "*", TAG, "--server", server.url, "--ping-url", url, cwd=tmp_path, check=0)
            await run("sync", "kolla", "x", TAG, "--server", server.url, "--ping-url", url, cwd=tmp_path, check=9)

    assert [path for path, _ in came] == [
        "/0b1c-secret/start",
        "/0b1c-secret",
        "/0b1c-secret/start",
        "/0b1c-secret/fail",
    ]
    assert "mirrored" in came[1][1]
    assert "exit code 9" in came[3][1]


async def test_a_ping_that_fails_is_a_line_without_its_secret(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    with pinged(status=500) as (url, _):
        async with QuayServer(registry) as server:
            done = await run(
                "sync", "kolla", "*", TAG, "--server", server.url, "--ping-url", url, cwd=tmp_path, check=0
            )

    assert "--ping-url: 127.0.0.1:" in done.stderr
    assert "secret" not in done.stderr


async def test_a_log_has_its_run_on_every_line_in_text_and_json(tmp_path: Path) -> None:
    async with server_with_trouble() as (server, names):
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--report", "report.json"]
        await run(*words, "--log-file", "log.txt", cwd=tmp_path, check=3)
        server.faults.append(Fault(rf"^/v2/kolla/{names[3]}/manifests/.*", Status(503), times=1))
        done = await run(*words, "--log-format", "json", "-v", "--to", "other", cwd=tmp_path, check=3)

    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) +[0-9a-f]{8}  ", line) for line in lines
    )
    assert sum(" ERROR " in line for line in lines) == 2
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert {record["run_id"] for record in records} == {json.loads((tmp_path / "report.json").read_text())["run_id"]}
    assert {"run_started", "tag_checked", "retry_scheduled", "image_finished", "run_finished"} <= {
        record["event"] for record in records
    }


async def test_quiet_shows_nothing_when_all_is_well(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        done = await run("sync", "kolla", "*", TAG, "--server", server.url, "-q", cwd=tmp_path, check=0)
        failed = await run("sync", "kolla", "x", TAG, "--server", server.url, "-q", cwd=tmp_path, check=9)

    assert done.stdout + done.stderr == ""
    assert failed.stderr.count("\n") == 1


# ---- jobs


def configuration(server: QuayServer, directory: Path, name: str) -> None:
    (directory / "quaymirror.toml").write_text(f"""
[run]
report = "report.json"
[defaults]
server = "{server.url}"
to = "mirror"
concurrency = 3
[jobs.nova]
organization = "kolla"
repositories = ["{name}"]
tags = ["{TAG}"]
[jobs.all]
organization = "kolla"
tags = ["{TAG}"]
[jobs.elsewhere]
organization = "kolla"
repositories = ["{name}"]
tags = ["2025.1*"]
to = "other"
""")


async def test_jobs_with_one_target_are_one_run_and_the_others_follow(tmp_path: Path) -> None:
    registry, images = kolla(12)
    async with QuayServer(registry) as server:
        configuration(server, tmp_path, min(images))
        await run("run", cwd=tmp_path, check=0, env=NO_SERVER)
        report = json.loads((tmp_path / "report.json").read_text())
        await run("run", "nova", "--to", "third", "--report", "other.json", cwd=tmp_path, check=0, env=NO_SERVER)

    REPORT.validate(report)
    first, second = report["runs"]
    assert (first["jobs"], second["jobs"]) == (["nova", "all"], ["elsewhere"])
    assert first["images"]["mirrored"] == len(images)
    assert len(layouts.names(tmp_path / "mirror")) == len(images)
    assert set(layouts.names(tmp_path / "other")) == {f"kolla/{min(images)}:{TAG}"}
    alone = json.loads((tmp_path / "other.json").read_text())
    REPORT.validate(alone)
    assert alone["jobs"] == ["nova"]
    assert (tmp_path / "third").is_dir()


async def test_a_job_that_fails_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    registry, images = kolla(4)
    async with QuayServer(registry) as server:
        configuration(server, tmp_path, min(images))
        (tmp_path / "mirror").mkdir()
        (tmp_path / "mirror" / "something").touch()
        done = await run("run", cwd=tmp_path, check=2, env=NO_SERVER)

    assert "quaymirror: nova, all: " in done.stderr
    assert len(layouts.names(tmp_path / "other")) == 1


async def test_of_a_ping_url_the_host_alone_is_shown(tmp_path: Path) -> None:
    (tmp_path / "quaymirror.toml").write_text(
        '[run]\nping-url = "https://me:pw@hc.example:8443/secret?x=1"\n[jobs.x]\norganization = "kolla"\n'
    )
    shown = await run("config", "show", cwd=tmp_path, check=0, env=NO_SERVER)
    assert 'ping-url   = "https://hc.example:8443/***"' in shown.stdout


async def test_the_command_line_counts_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    registry, images = kolla(2)
    async with QuayServer(registry) as server:
        configuration(server, tmp_path, min(images))
        shown = await run(
            "config",
            "show",
            "nova",
            "--json",
            cwd=tmp_path,
            check=0,
            env={"QUAYMIRROR_CONCURRENCY": "5", "QUAYMIRROR_GRACE": "3d", "QUAYMIRROR_NO_SPACE_CHECK": "1"},
        )
        job = json.loads(shown.stdout)["jobs.nova"]
        assert job["grace"] == {"value": "3d", "origin": "environment, QUAYMIRROR_GRACE"}
        assert job["no-space-check"] == {"value": True, "origin": "environment, QUAYMIRROR_NO_SPACE_CHECK"}
        assert job["full-check-every"] == {"value": "7d", "origin": "default"}
        assert job["concurrency"] == {"value": 5, "origin": "environment, QUAYMIRROR_CONCURRENCY"}
        assert job["to"] == {"value": str(tmp_path / "mirror"), "origin": "quaymirror.toml:6"}
        assert job["retries"] == {"value": 5, "origin": "default"}
        env = NO_SERVER | {"QUAYMIRROR_TO": "from-environment", "QUAYMIRROR_DRY_RUN": "1"}
        await run("run", "nova", "--report", "r.json", cwd=tmp_path, check=0, env=env)
        assert json.loads((tmp_path / "r.json").read_text())["dry_run"] is True
        assert json.loads((tmp_path / "r.json").read_text())["target"] == "from-environment"


async def test_validate_names_every_mistake_and_run_the_first(tmp_path: Path) -> None:
    (tmp_path / "quaymirror.toml").write_text('[jobs.x]\norganization = "Kolla"\ntag = "x"\n')
    done = await run("config", "validate", cwd=tmp_path, check=2)
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [
        "quaymirror.toml:2:1",
        "quaymirror.toml:3:1",
    ]
    first = await run("run", cwd=tmp_path, check=2)
    assert first.stderr.startswith("quaymirror: quaymirror.toml:2:1: jobs.x.organization: not an organization name")
    assert first.stderr.count("\n") == 1
    (tmp_path / "quaymirror.toml").unlink()
    none = await run("run", cwd=tmp_path, check=2, env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert "no configuration file found" in none.stderr


async def test_an_import_is_a_configuration_that_is_valid(tmp_path: Path) -> None:
    (tmp_path / "sync.yml").write_text("quay.io: {images: {kolla/nova-api: [x]}, credentials: {}}\n")
    done = await run("config", "import", "sync.yml", cwd=tmp_path, check=0)
    (tmp_path / "quaymirror.toml").write_text(done.stdout)
    valid = await run("config", "validate", cwd=tmp_path, check=0)
    assert valid.stdout == "quaymirror.toml: 1 job, no mistakes\n"


def test_a_password_of_standard_input_is_read_once_for_all_jobs(tmp_path: Path) -> None:
    jobs = "".join(f'[jobs.{name}]\norganization = "kolla"\nto = "{name}"\n' for name in ("one", "two"))
    (tmp_path / "quaymirror.toml").write_text(jobs)
    command = [
        sys.executable,
        "-m",
        "quaymirror",
        "run",
        "-q",
        "--username",
        "me",
        "--password-stdin",
        "--retries",
        "0",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, input="secret", capture_output=True, text=True, timeout=50, check=False
    )
    # The server is down: both jobs reached it.
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("connection refused") == 2
