"""The clients that are asked: our verifier, and the stock ones, each as a process without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attest import trust
from attest.errors import VerificationError, VitrineError
from tests.conformance.clients.tampering import Case

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "clients"
JS = BUILD / "js"
COSIGN = BUILD / "cosign" / "usr" / "bin" / "cosign"
TIMEOUT_S = 120


@dataclass(frozen=True)
class Answer:
    """What a client said."""

    accepted: bool
    reason: str


@dataclass(frozen=True)
class Client:
    """A client, and how it is asked."""

    name: str
    ask: Callable[[Case], Answer]


class Missing(Exception):  # noqa: N818
    """A client, or the isolation it is to run in, is not on this machine."""


def ours(trusted_root: Path) -> Client:
    """`attest.trust`, and the subject's digest, as `attest verify` compares it."""

    def ask(case: Case) -> Answer:
        try:
            signature = trust.verify_signature(
                case.bundle, trusted_root.read_bytes(), identity=case.identity, issuer=case.issuer
            )
            digest = hashlib.sha256(case.artifact.read_bytes()).hexdigest()
            subjects = [subject["digest"]["sha256"] for subject in json.loads(signature.payload)["subject"]]
            if digest not in subjects:
                raise VerificationError("subject", "digest", expected=subjects, found=digest)
        except VitrineError as error:
            return Answer(False, str(error)[:200])
        return Answer(True, "")

    return Client("ours", ask)


def sigstore_python(trust_config: Path) -> Client:
    """The command line of sigstore-python, from this environment."""
    program = Path(sys.executable).parent / "sigstore"
    if not program.exists():
        raise Missing(f"sigstore-python: no {program.name} beside {Path(sys.executable).name}")

    def command(case: Case, bundle: Path) -> list[str]:
        return [
            *(str(program), "--trust-config", str(trust_config), "verify", "identity", "--offline"),
            *("--bundle", str(bundle), "--cert-identity", case.identity, "--cert-oidc-issuer", case.issuer),
            str(case.artifact),
        ]

    return Client("sigstore-python", _process(command))


def sigstore_js(trusted_root: Path) -> Client:
    """sigstore-js, by `verify.js`."""
    if not _js_is_here():
        raise Missing("sigstore-js: run tests/conformance/clients/setup.sh")

    def command(case: Case, bundle: Path) -> list[str]:
        script = [str(HERE / "verify.js"), str(JS), str(bundle), str(trusted_root)]
        return ["node", *script, case.identity, case.issuer, str(case.artifact)]

    return Client("sigstore-js", _process(command))


def cosign(trusted_root: Path) -> Client:
    """cosign, told to verify the timestamp as well."""
    if not COSIGN.exists():
        raise Missing("cosign: run tests/conformance/clients/setup.sh")

    def command(case: Case, bundle: Path) -> list[str]:
        predicate = json.loads(_payload(case.bundle))["predicateType"]
        return [
            *(str(COSIGN), "verify-blob-attestation", "--bundle", str(bundle), "--trusted-root", str(trusted_root)),
            *("--certificate-identity", case.identity, "--certificate-oidc-issuer", case.issuer),
            *("--type", predicate, "--use-signed-timestamps", str(case.artifact)),
        ]

    return Client("cosign", _process(command))


def fetched() -> bool:
    """Whether setup.sh has nothing left to do."""
    return _js_is_here() and COSIGN.exists()


def isolation() -> list[str]:
    """The command prefix that takes the network away. Raises `Missing` where the kernel does not permit it."""
    for prefix in (["unshare", "-n"], ["unshare", "-r", "-n"]):
        try:
            if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
                return prefix
        except OSError:
            break
    raise Missing("network namespaces: `unshare -n` is not permitted here")


def _js_is_here() -> bool:
    return shutil.which("node") is not None and (JS / "node_modules" / "@sigstore" / "verify").is_dir()


def _process(command: Callable[[Case, Path], list[str]]) -> Callable[[Case], Answer]:
    prefix = isolation()

    def ask(case: Case) -> Answer:
        with tempfile.TemporaryDirectory() as home:
            bundle = Path(home) / "bundle.sigstore.json"
            bundle.write_bytes(case.bundle)
            environment = {"HOME": home, "PATH": os.environ["PATH"], "NO_COLOR": "1", "COLUMNS": "200"}
            done = subprocess.run(
                [*prefix, *command(case, bundle)],
                check=False,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                env=environment,
                cwd=home,
            )
        return Answer(done.returncode == 0, "" if done.returncode == 0 else _reason(done.stdout + "\n" + done.stderr))

    return ask


def _reason(output: str) -> str:
    """What a client printed, on one line, less what says nothing."""
    lines = [re.sub(r"^\[[0-9:]+\]|\b_?[a-z]+\.py:[0-9]+| +", " ", line).strip() for line in output.splitlines()]
    if any(line.startswith("Traceback") for line in lines):
        return f"crashed: {[line for line in lines if line][-1][:280]}"
    noise = ("For detailed error information", "An issue occurred", "error during command execution")
    return " ".join(line for line in lines if line and not line.startswith(noise))[:300] or "no reason given"


def _payload(bundle: bytes) -> bytes:
    return base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])
