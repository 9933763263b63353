"""The judgement of a policy about one image, from the signatures that were found beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path

from ..errors import ConfigError, from_os_error
from ..oci import Reference
from ..values import dataclass
from .bundle import Bundle, parse_bundle, sha256_hex, statement_claim
from .evidence import Evidence, SimpleSignature
from .gpg import check_keyring, verify_message
from .identity import SignedIdentity
from .keyless import KeylessVerifier
from .keys import PublicKey, UnusableKey, load_key
from .log_entries import check_annotation, check_entries
from .names import DockerName
from .payload import COSIGN, GPG, Claim, InvalidClaim, parse_payload
from .policy import SignaturePolicy, docker_name
from .requirements import (
    AcceptAnything,
    KeyFile,
    Reject,
    Requirement,
    SignedByGPG,
    SignedByIdentity,
    SignedByKeys,
)

_UNSIGNED = "no signature"
_OTHER_KEY = "signed by another key"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict about an image, with the keys or identities that signed it, or a reason per key or identity."""

    accepted: bool
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(self.reasons)


@dataclass(slots=True)
class _Check:
    """The signatures of one manifest, and a requirement that one of them has to meet."""

    evidence: Evidence
    image: DockerName
    identity: SignedIdentity
    problems: list[str] = field(default_factory=list)

    def first(self, attempts: Iterator[Callable[[], Claim]]) -> bool:
        """Return True if one of the attempts is a claim about the image; the reasons of the others are noted."""
        for attempt in attempts:
            try:
                self._accept(attempt())
            except InvalidClaim as error:
                self.problems.append(str(error))
            else:
                return True

        return False

    def _accept(self, claim: Claim) -> None:
        if claim.digest != str(self.evidence.digest):
            raise InvalidClaim("a signature of another image")

        if not claim.name and not self.identity.takes_unnamed:
            raise InvalidClaim("the signature names no image: signedIdentity matchRepository would accept it")

        if claim.name and not self.identity.accepts(self.image, claim.name):
            raise InvalidClaim(f"a signature for {claim.name[:200]!r}, which {self.identity.kind} does not accept")

    def reason(self) -> str:
        """Return the most telling reason why no signature counts."""
        problems = [*dict.fromkeys(self.problems)]
        telling = [problem for problem in problems if problem != _OTHER_KEY] or problems or [_UNSIGNED]
        return ", ".join(telling[:3])


class Judge:
    """Judges images by a policy. Its methods block: they verify signatures.

    The same `fingerprint` means the same judgement of the same signatures.

    :raises ConfigError: if a key of the policy can't be used, or `trusted_root` is missing, wrong or not enough.
    """

    def __init__(self, policy: SignaturePolicy, trusted_root: Path | None = None) -> None:
        self._policy = policy
        self._keys: dict[bytes, PublicKey] = {}
        self._keyless: dict[int, KeylessVerifier] = {}
        root = b"" if trusted_root is None else _content(trusted_root)
        self.fingerprint: str = sha256_hex(f"{policy.fingerprint} {sha256_hex(root)}".encode())
        for requirement in policy.all_requirements:
            self._prepare(requirement, root, trusted_root)

    def needs_signatures(self, reference: Reference) -> bool:
        """Return True if the judgement about `reference` depends on its signatures."""
        return any(not isinstance(each, AcceptAnything | Reject) for each in self._policy.requirements(reference))

    def needs_messages(self, reference: Reference) -> bool:
        """Return True if the judgement about `reference` depends on signatures by GPG keys."""
        return any(isinstance(each, SignedByGPG) for each in self._policy.requirements(reference))

    def judge(self, reference: Reference, root: Evidence, children: Sequence[Evidence] = ()) -> Verdict:
        """Return the verdict about an image at its source: all requirements of its scope have to be met.

        A requirement is met by a signature of the root, or by signatures of all `children`, the manifests of an index
        that are mirrored.
        """
        name, reasons = docker_name(reference), list[str]()
        for requirement in self._policy.requirements(reference):
            accepted, problems = self._is_met(requirement, name, root)
            if not accepted and children and not isinstance(requirement, AcceptAnything | Reject):
                parts = [self._is_met(requirement, name, child) for child in children]
                if all(part is not None for part, _ in parts):
                    accepted = f"{parts[0][0]}, each of {len(children)} platforms"
                elif any(part is not None for part, _ in parts):
                    lacking = next(child for child, (part, _) in zip(children, parts, strict=True) if part is None)
                    problems = [f"{problem}; not all platforms are signed: {lacking.name}" for problem in problems]

            if accepted is None:
                return Verdict(False, tuple(dict.fromkeys(problems)))

            reasons.append(accepted)

        return Verdict(True, tuple(dict.fromkeys(reasons)))

    def _prepare(self, requirement: Requirement, root: bytes, path: Path | None) -> None:
        match requirement:
            case SignedByKeys(keys, _, logs):
                for file in (*keys, *logs):
                    self._key(file)
            case SignedByGPG(keyrings):
                for keyring in keyrings:
                    check_keyring(keyring)
            case SignedByIdentity():
                if path is None:
                    raise ConfigError("a policy with fulcio needs --trusted-root FILE, a trusted_root.json of sigstore")

                trusted = tuple(self._key(log) for log in requirement.logs)
                self._keyless[id(requirement)] = KeylessVerifier(requirement, trusted, root, str(path))

    def _key(self, file: KeyFile) -> PublicKey:
        key = self._keys.get(file.content)
        if key is None:
            try:
                key = self._keys[file.content] = load_key(file.content)
            except UnusableKey as error:
                raise ConfigError(f"{file.label} {error}") from None

        return key

    def _is_met(self, requirement: Requirement, image: DockerName, evidence: Evidence) -> tuple[str | None, list[str]]:
        """Return what meets the requirement, None if nothing does; and then the reasons."""
        match requirement:
            case AcceptAnything():
                return "accepted unsigned by the policy", []
            case SignedByKeys():
                return self._by_keys(requirement, image, evidence)
            case SignedByIdentity():
                return self._by_identity(requirement, image, evidence)
            case SignedByGPG():
                return self._by_gpg(requirement, image, evidence)

        return None, ["the policy rejects it"]

    def _by_keys(
        self, requirement: SignedByKeys, image: DockerName, evidence: Evidence
    ) -> tuple[str | None, list[str]]:
        logs, problems = [self._key(log) for log in requirement.logs], list[str]()
        for file in requirement.keys:
            key, check = self._key(file), _Check(evidence, image, requirement.identity)
            if check.first(_attempts(evidence, key, logs)):
                return f"key {file.label} ({key.id[:12]})", []

            problems.append(f"key {file.label} ({key.id[:12]}): {check.reason()}")

        return None, problems

    def _by_identity(
        self, requirement: SignedByIdentity, image: DockerName, evidence: Evidence
    ) -> tuple[str | None, list[str]]:
        verifier, check = self._keyless[id(requirement)], _Check(evidence, image, requirement.identity)
        who = f"{requirement.subject} ({requirement.issuer})"

        def verified(raw: bytes) -> Claim:
            bundle = parse_bundle(raw)
            if not bundle.has_certificate:
                raise InvalidClaim("a signature by a key, not by an identity")

            return _claim(bundle, evidence, verifier.verify(bundle, evidence.digest, evidence.content))

        def by_tag(signature: SimpleSignature) -> Claim:
            if not signature.certificate:
                raise InvalidClaim("a signature by a key, not by an identity")

            verifier.verify_tag(signature)
            return parse_payload(signature.payload, COSIGN)

        def attempts() -> Iterator[Callable[[], Claim]]:
            yield from (partial(verified, raw) for raw in evidence.bundles)
            yield from (partial(by_tag, each) for each in evidence.simple)

        if check.first(attempts()):
            return who, []

        return None, [f"{who}: {check.reason()}"]

    def _by_gpg(self, requirement: SignedByGPG, image: DockerName, evidence: Evidence) -> tuple[str | None, list[str]]:
        check, label = _Check(evidence, image, requirement.identity), ", ".join(k.label for k in requirement.keyrings)
        signers: list[str] = []

        def verified(message: bytes) -> Claim:
            content, signer = verify_message(message, requirement.keyrings)
            signers.append(signer)
            return parse_payload(content, GPG)

        if check.first(partial(verified, message) for message in evidence.messages):
            return f"GPG key {signers[-1][-16:]}", []

        return None, [f"GPG keys {label}: {check.reason()}"]


def _attempts(evidence: Evidence, key: PublicKey, logs: Sequence[PublicKey]) -> Iterator[Callable[[], Claim]]:
    yield from (partial(_simple_claim, each, key, logs) for each in evidence.simple)
    yield from (partial(_bundle_claim, raw, evidence, key, logs) for raw in evidence.bundles)


def _simple_claim(signature: SimpleSignature, key: PublicKey, logs: Sequence[PublicKey]) -> Claim:
    if not key.verifies(signature.signature, signature.payload):
        raise InvalidClaim(_OTHER_KEY)

    if logs:
        check_annotation(signature.log_entry, logs, key, signature.signature, signature.payload)

    return parse_payload(signature.payload, COSIGN)


def _bundle_claim(raw: bytes, evidence: Evidence, key: PublicKey, logs: Sequence[PublicKey]) -> Claim:
    bundle = parse_bundle(raw)
    if bundle.has_certificate:
        raise InvalidClaim("a signature by an identity, not by a key")

    if not key.verifies(bundle.signature, evidence.content if bundle.signed is None else bundle.signed):
        raise InvalidClaim(_OTHER_KEY)

    content = bundle.payload if bundle.has_envelope else evidence.content
    if logs:
        check_entries(bundle, logs, key, content)

    return _claim(bundle, evidence, content)


def _claim(bundle: Bundle, evidence: Evidence, verified: bytes) -> Claim:
    """Return the claim in verified content: a statement, or the manifest itself."""
    return statement_claim(verified, evidence.digest) if bundle.has_envelope else Claim(str(evidence.digest))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise from_os_error(error, "read", path, kind=ConfigError) from None
