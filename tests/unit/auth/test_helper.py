from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import anyio
import pytest

from quaymirror.auth.credentials import CredentialStore
from quaymirror.auth.helper import ask_helper
from quaymirror.errors import ConfigError

NOT_FOUND = "echo 'credentials not found in native keychain'; exit 1"


class Bench:
    """A PATH of our own, with helpers that write down each call."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.log = root / "log"
        self.env = {"PATH": f"{self.bin}:/usr/bin:/bin"}

    def add(self, name: str, body: str) -> None:
        path = self.bin / f"docker-credential-{name}"
        path.write_text(f'#!/bin/sh\nserver=$(cat)\necho "{name} $* <$server>" >> "{self.log}"\n{body}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def config(self, **document: object) -> CredentialStore:
        path = self.root / "auth.json"
        path.write_text(json.dumps(document))
        return CredentialStore(authfile=path, env=self.env)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def answer(username: str = "user", secret: str = "hunter2", **more: str) -> str:
    return f"cat <<'END'\n{json.dumps({'Username': username, 'Secret': secret, **more})}\nEND"


AUTHS = {"quay.io": {"auth": base64.b64encode(b"inline:p").decode()}}


async def user(store: CredentialStore, registry: str = "quay.io") -> str | None:
    found = await store.find(registry)
    return found.username if found else None


async def test_helper_gets_the_server_on_stdin_and_nothing_else(bench: Bench) -> None:
    bench.add("mine", answer(ServerURL="quay.io"))
    found = await ask_helper("mine", "quay.io", env=bench.env)
    assert found is not None
    assert (found.username, found.secret.reveal()) == ("user", "hunter2")
    assert bench.calls() == ["mine get <quay.io>"]


async def test_order_is_own_helper_then_store_then_auths(bench: Bench) -> None:
    bench.add("own", answer("own"))
    bench.add("store", answer("store"))
    bench.add("empty", NOT_FOUND)
    assert await user(bench.config(credHelpers={"quay.io": "own"}, credsStore="store", auths=AUTHS)) == "own"
    assert await user(bench.config(credHelpers={"Quay.io:443": "own"}, credsStore="store")) == "own"
    assert await user(bench.config(credHelpers={"quay.io": "empty"}, credsStore="store", auths=AUTHS)) == "store"
    assert await user(bench.config(credHelpers={"quay.io": ""}, credsStore="store", auths=AUTHS)) == "inline"
    assert await user(bench.config(credHelpers={"quay.io.evil.test": "own"}, auths=AUTHS)) == "inline"
    assert await user(bench.config(credHelpers={"quay.io": "empty"}, credsStore="empty", auths=AUTHS)) == "inline"
    assert await user(bench.config(credHelpers={"quay.io": "empty"})) is None


async def test_the_credentials_that_docker_stored_for_docker_hub_are_found(bench: Bench) -> None:
    place = "https://index.docker.io/v1/"
    bench.add("keys", f'[ "$server" = {place} ] || {{ {NOT_FOUND}; }}\n{answer("me", ServerURL=place)}')
    assert await user(bench.config(credsStore="keys"), "registry-1.docker.io") == "me"
    assert await user(bench.config(credHelpers={place: "keys"}), "registry-1.docker.io") == "me"
    assert await user(bench.config(credsStore="keys"), "quay.io") is None


async def test_helper_is_called_once_per_server_for_any_number_of_callers(bench: Bench) -> None:
    bench.add("mine", "sleep 0.1; " + answer())
    store = bench.config(credsStore="mine")
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(user, store)
            group.start_soon(user, store, "QUAY.IO:443")
            group.start_soon(user, store, "other.test")
    assert sorted(bench.calls()) == ["mine get <other.test>", "mine get <quay.io>"]


async def test_failure_and_not_found_are_remembered_too(bench: Bench) -> None:
    bench.add("broken", "exit 3")
    bench.add("empty", NOT_FOUND)
    store = bench.config(credHelpers={"quay.io": "broken", "other.test": "empty"})
    for _ in range(3):
        with pytest.raises(ConfigError, match=r"docker-credential-broken failed for quay\.io"):
            await store.find("quay.io")
        assert await user(store, "other.test") is None
    assert len(bench.calls()) == 2


async def test_cancelled_caller_does_not_spoil_it_for_the_next(bench: Bench) -> None:
    bench.add("mine", "sleep 0.3; " + answer())
    store = bench.config(credsStore="mine")
    with anyio.move_on_after(0.1):
        await store.find("quay.io")
    assert await user(store) == "user"


@pytest.mark.parametrize(
    "body",
    [
        "exit 1",
        "echo hunter2; exit 1",
        "echo 'credentials not found in native keychain, hunter2'; exit 1",
        "echo 'credentials not found in native keychain'; exit 0",
        "echo '{hunter2'",
        "echo '[\"hunter2\"]'",
        "echo hunter2 >&2; kill -9 $$",
        answer(secret=""),
        answer(username=""),
        answer(username="a:hunter2"),
        answer(secret="hunter2\n"),
        'echo \'{"Username": 1, "Secret": "hunter2"}\'',
        'echo \'{"Username": "u", "Secret": ["hunter2"]}\'',
        answer(ServerURL="quay.io.evil.test"),
        answer(ServerURL="https://evil.test/v1/"),
        answer(ServerURL="quay.io:8443"),
        "yes hunter2",
        "head -c 65537 /dev/zero",
    ],
)
async def test_failing_helper_is_an_error_and_the_next_source_is_not_asked(body: str, bench: Bench) -> None:
    bench.add("mine", body)
    bench.add("next", answer("next"))
    with pytest.raises(ConfigError, match="docker-credential-mine") as caught:
        await bench.config(credHelpers={"quay.io": "mine"}, credsStore="next", auths=AUTHS).find("quay.io")
    assert "hunter2" not in caught.value.message
    assert "\n" not in caught.value.message
    assert bench.calls() == ["mine get <quay.io>"]


@pytest.mark.parametrize("server", ["quay.io", "QUAY.IO", "https://quay.io", "https://quay.io/v1/", ""])
async def test_answer_for_the_same_server_is_taken(server: str, bench: Bench) -> None:
    bench.add("mine", answer(ServerURL=server))
    assert await user(bench.config(credsStore="mine")) == "user"


async def test_identity_token_of_a_helper(bench: Bench) -> None:
    bench.add("mine", answer("<token>", "refresh"))
    found = await bench.config(credsStore="mine").find("quay.io")
    assert found is not None
    assert found.is_identity_token


@pytest.mark.parametrize("name", ["../evil", "a b", "a;b", "a/b", "a\n", "\u00fc", "-x/"])
async def test_helper_names_have_a_grammar(name: str, bench: Bench) -> None:
    with pytest.raises(ConfigError, match="not a valid name of a credential helper") as caught:
        await bench.config(credsStore=name).find("quay.io")
    assert "\n" not in caught.value.message


async def test_missing_helper_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.add("here", answer())
    monkeypatch.chdir(bench.bin)
    for path in (str(bench.root), "", ".", ":", "bin/.."):
        bench.env["PATH"] = path
        with pytest.raises(ConfigError, match="docker-credential-here is not in PATH"):
            await bench.config(credsStore="here").find("quay.io")


async def test_helper_that_can_not_run_is_an_error(bench: Bench) -> None:
    program = bench.bin / "docker-credential-bad"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match="can't run credential helper docker-credential-bad"):
        await bench.config(credsStore="bad").find("quay.io")


async def test_helper_may_ignore_its_question(bench: Bench) -> None:
    program = bench.bin / "docker-credential-deaf"
    program.write_text(f"#!/bin/sh\nexec <&-\n{answer()}\n")
    program.chmod(0o755)
    assert await user(bench.config(credsStore="deaf")) == "user"


@pytest.mark.parametrize("body", ["sleep 30", "exec sleep 30", "sleep 30 & exit 0", "exec >&-; exec sleep 30"])
async def test_helper_that_hangs_is_ended(body: str, bench: Bench) -> None:
    bench.add("slow", body)
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"docker-credential-slow gave no answer in 0\.3 s"):
        await ask_helper("slow", "quay.io", env=bench.env, time_limit_s=0.3)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("body", ["head -c 70000 /dev/zero; exec sleep 30", "exec head -c 65537 /dev/zero", "yes"])
async def test_helper_that_answers_too_much_is_ended(body: str, bench: Bench) -> None:
    bench.add("loud", f"trap '' PIPE; {body}")
    begin = time.monotonic()
    with pytest.raises(ConfigError, match="docker-credential-loud answered more than 65536 bytes"):
        await ask_helper("loud", "quay.io", env=bench.env, time_limit_s=20)
    assert time.monotonic() - begin < 5


async def test_helper_does_not_see_our_secrets(bench: Bench) -> None:
    bench.env |= {"QUAYMIRROR_SRC_PASSWORD": "x", "QUAY_API_TOKEN": "x", "QUAY_API_TOKEN_FILE": "x", "GNUPGHOME": "/g"}
    bench.add("mine", f'env > "{bench.root}/env"; ' + answer())
    assert await user(bench.config(credsStore="mine")) == "user"
    seen = (bench.root / "env").read_text()
    assert "QUAY" not in seen
    assert "GNUPGHOME=/g" in seen
