"""Mistakes of users: the command line, with its environment and files, and the line that it ends with.

The page docs/reference/messages.md is made from this table and from that of `situations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from organizations import TAG

JOB = '[jobs.a]\norganization = "kolla"\n'


@dataclass(frozen=True)
class Mistake:
    """A command line, with its environment and files, and the last line and the code that it ends with."""

    command: str
    line: str
    code: int = 2
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The command line, with its variables."""
        variables = "".join(f"{name}={value} " for name, value in self.env.items())
        return f"{variables}quaymirror {self.command.format(tag=TAG)}".strip()


def config(text: str) -> dict[str, str]:
    return {"quaymirror.toml": text}


MISTAKES = (
    # Commands and options
    Mistake("snyc kolla", "No such command 'snyc'; did you mean 'sync'?"),
    Mistake("sync", "Missing argument 'ORG' (try"),
    Mistake("sync kolla --concurency 4", "Did you mean one of: '--concurrency', "),
    Mistake("sync kolla -c many", "Invalid value for '-c' / '--concurrency': must be an integer, not 'many'"),
    Mistake("sync kolla --limit-rate fast", "not a rate: 'fast'; write bytes per second, such as 500K, 20M or 1G"),
    Mistake("sync kolla --yes", "beyond --max-delete it needs --ignore-max-delete"),
    Mistake("run --yes", "beyond --max-delete it needs --ignore-max-delete"),
    Mistake("demo --images 3", "No such option '--images': write --count N"),
    Mistake("sync kolla --dest mirror", "No such option '--dest': write --to TARGET"),
    Mistake("sync kolla --insecure", "write --server http://HOST for plain HTTP, or --tls-verify false"),
    Mistake("sync kolla --verbose --quiet", "--verbose and --quiet contradict each other"),
    Mistake("sync kolla --progress fancy", "must be one of auto, rich, plain, json, none, not 'fancy'"),
    Mistake(
        "sync kolla a b c",
        "quote wildcards, or the shell replaces them by the names of files here: '*'",
        files={"a": ""},
    ),
    # Selections
    Mistake("sync Kolla", "not an organization name: 'Kolla'; organizations have lower-case letters"),
    Mistake("sync kolla [", "not a valid glob: '['; write [ and ] in pairs"),
    Mistake("sync kolla [z-a]", "write the range z-a the other way round"),
    Mistake("sync kolla nova-* v1,", "not a tag: ''; tags have 1 to 128 letters"),
    Mistake("sync kolla --since yesterday", "not a date or duration: 'yesterday'; write 2025-06-30"),
    Mistake("sync kolla --since 2999-01-01", "in the future: '2999-01-01'; write a date that has passed"),
    Mistake("sync quay://kolla/*:x?until=1", "unknown query: 'until=1'"),
    Mistake("sync quay://kolla *", "no GLOB or TAG can follow it"),
    Mistake("sync quay://me:secret@kolla/x", "it takes no credentials"),
    Mistake("sync kolla --platform amd64", "not a platform: 'amd64'"),
    Mistake("sync kola * {tag}", "this server has no organization 'kola'", 9),
    Mistake("sync kolla nova-apy {tag}", "no repository of kolla matches nova-apy; nearest: nova-api", 9),
    Mistake("sync kolla nova-* 2025.1-ubuntu", "has the tag 2025.1-ubuntu; nearest: 2025.1-debian", 9),
    Mistake("sync kolla nova-* zed", "no repository of kolla has the tag zed; existing: 2025.1-debian", 9),
    # References, lists and names
    Mistake("sync kolla/nova-*:1", "a wildcard in a reference to one image: 'kolla/nova-*:1'; write ORG GLOB TAG"),
    Mistake("sync kolla/Nova:1", "'kolla/Nova' is not a repository name; write [registry/]repository[:tag][@digest]"),
    Mistake("sync kolla/nova-api 1", "is a whole selection: no GLOB or TAG can follow it"),
    Mistake("sync https://quay.io/kolla", "write https://quay.io/repository/ORG/REPO, or ORG/REPO:TAG"),
    Mistake("sync kolla/nova-apx:{tag}", "no repository of kolla matches nova-apx; nearest: nova-api", 9),
    Mistake("sync --images none", "Invalid value for '--images': no such file: 'none'"),
    Mistake("sync --images list", "list:2: not an image: 'nova api'", files={"list": "kolla/a:1\nnova api\n"}),
    Mistake(
        "sync me:secret@quay.io/kolla/a:1", "an '@' that begins no digest: a reference takes no credentials; write"
    ),
    Mistake(
        "sync hubb://library/nginx:1", "unknown kind of source: 'hubb'; write ORG GLOB TAG, quay://ORG/GLOB:TAG, or"
    ),
    Mistake(
        "sync hub://docker.io/library/nginx:1", "hub:// takes no host, as 'docker.io' looks like; write hub://NAMESPACE"
    ),
    Mistake(
        "sync harbor://h.example/Team/*:1", "not a project name: 'Team'; names have lower-case letters, digits, and"
    ),
    Mistake("sync registry://r.example/*:", "not a tag: ''; tags have 1 to 128 letters, digits, . _ - and don't begin"),
    Mistake(
        "sync --images list",
        "list:2: kolla/a:1 is x/a:1 in an earlier line: write another list",
        files={"list": "kolla/a:1=x/a:1\nkolla/a:1=y/a:1\n"},
    ),
    Mistake("sync --images list", "list names no image: write one per line", files={"list": "# nothing\n"}),
    Mistake("sync kolla --images list", "are whole selections: give one", files={"list": "kolla/a:1\n"}),
    Mistake(
        "sync --images list",
        "would have the same name, kolla/a:1: --rename 'ghcr.io/kolla/a=ghcr.io/kolla/a' would separate them",
        files={"list": "kolla/a:1\nghcr.io/kolla/a:1\n"},
    ),
    Mistake("sync kolla --rename kolla", "not a rule for names: 'kolla'; write FROM=TO"),
    Mistake("sync kolla --newest 0", "must be between 1 and 10,000, not 0"),
    Mistake("sync kolla --newest 2 --discovery registry", "can't tell when a tag was updated, which --newest needs"),
    Mistake("sync kolla --image-label =x", "not a condition on a label: '=x'; write KEY, KEY=GLOB or KEY!=GLOB"),
    Mistake("sync kolla --prune --image-label x", "--prune and --image-label exclude each other"),
    Mistake("check mirror", "Missing option '--images'"),
    Mistake("check --images list nowhere", "no OCI image layout at nowhere", files={"list": "kolla/a:1\n"}),
    # Targets
    Mistake(
        "sync kolla --to localhost:5000/x", "a host with a port; write registry://localhost:5000/x, or ./localhost"
    ),
    Mistake(
        "sync kolla --to oci:mirror",
        "not a target: 'oci:mirror': targets are addresses or paths; write ocidir://mirror",
    ),
    Mistake("sync kolla --to docker-archive:x.tar", "write tar://x.tar/{repo}-{tag}.tar"),
    Mistake("sync kolla --to dir:/srv/x", "write dir:///srv/x"),
    Mistake("sync kolla --to docker:registry.example/x", "write registry://registry.example/x"),
    Mistake(
        "sync kolla --to docker://registry.example/x", "the daemon of this machine; write registry://registry.example/x"
    ),
    Mistake(
        "sync kolla --to registry.example/x",
        "registry.example looks like a registry; write registry://registry.example/x",
    ),
    Mistake("sync kolla --to s4://bucket", "unknown kind of target: 's4'"),
    Mistake("sync kolla --to registry://", "not a registry: ''; write registry://HOST[:PORT][/PREFIX]"),
    Mistake("sync kolla --to registry://me:pw@r.example", "use --dest-username or an auth file"),
    Mistake("sync kolla --to registry://r.example?insecure=maybe", "insecure is true or false"),
    Mistake(
        "sync kolla --to docker:// ", "no Docker or Podman daemon at none.sock: no such file or directory; start", 5
    ),
    Mistake("sync kolla --to file", "is not a directory", files={"file": "x"}),
    Mistake("sync kolla --to full", "is not an OCI image layout", files={"full/data": "x"}),
    Mistake("sync kolla --to mirror/{{repo}}", "one layout holds all images, which share layers there; leave it out"),
    Mistake("sync kolla -f normalize-timestamps", "filters change images: they need a target such as dir://PATH"),
    Mistake("sync kolla --prune --to registry://r.example", "--prune needs an OCI image layout as target"),
    Mistake("sync kolla --prune --since 7d", "--prune and --since exclude each other"),
    # Files and credentials
    Mistake("sync kolla --authfile none.json", "Invalid value for '--authfile': no such file: 'none.json'"),
    Mistake("sync kolla --token-file none", "no such file: 'none'"),
    Mistake("sync kolla --username me", "--username and --password-stdin go together"),
    Mistake("sync kolla --report no/where.json", "can't write a file at 'no/where.json'"),
    Mistake("sync --from-lock lock.json", "lock.json is not a lock file", files={"lock.json": "{}"}),
    Mistake("sync kolla --from-lock lock.json", "--from-lock is a whole selection", files={"lock.json": "{}"}),
    Mistake("verify nowhere", "no OCI image layout at nowhere"),
    Mistake("prune nowhere", "no OCI image layout at nowhere"),
    Mistake(
        "history here",
        "not a run: 'here'; the history of a mirror is shown by quaymirror history --to here",
        files={"here": ""},
    ),
    Mistake("history --to nowhere", "no run found for 'nowhere': pass the same target that you used with sync"),
    # Environment
    Mistake(
        "sync kolla", "QUAYMIRROR_CONCURRENCY: must be an integer, not 'lots'", env={"QUAYMIRROR_CONCURRENCY": "lots"}
    ),
    Mistake(
        "config validate",
        "QUAYMIRROR_AUTHFILE: no such file: 'none'",
        env={"QUAYMIRROR_AUTHFILE": "none"},
        files=config(JOB),
    ),
    Mistake(
        "config validate",
        "QUAY_API_TOKEN_FILE: no such file: 'none'",
        env={"QUAY_API_TOKEN_FILE": "none"},
        files=config(JOB),
    ),
    # Configuration files
    Mistake("run", "no configuration file found"),
    Mistake(
        "run nightly",
        "has no job 'nightly'; did you mean 'nightly-kolla'?",
        files=config(JOB.replace("a]", "nightly-kolla]")),
    ),
    Mistake(
        "run", ":3:1: jobs.a.repos: unknown key; did you mean 'repositories'?", files=config(f'{JOB}repos = ["x"]\n')
    ),
    Mistake("run", ":3:1: jobs.a.tags: must be an array of strings", files=config(f'{JOB}tags = "x"\n')),
    Mistake("run", ":1:7: jobs.a: 'organization' is missing", files=config("[jobs.a]\n")),
    Mistake("run", "not TOML", files=config("[jobs.a\n")),
    Mistake("run", "jobs.a.to: not a target: 'localhost:5000/x'", files=config(f'{JOB}to = "localhost:5000/x"\n')),
    Mistake("config validate", "authfile: no such file", files=config(f'{JOB}authfile = "none"\n')),
    Mistake("config validate", "token-file: no such file", files=config(f'{JOB}token-file = "none"\n')),
    Mistake("config import x", "x is neither", files={"x": "a: 1\n"}),
)
