"""What the tests of a lab's log do: register runs, sign for them, write what they like, and use the commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from appliance.enrol import digest_of_key
from appliance.notary.lab import Lab
from appliance.notary.log_cli import app as log_app
from attest import canonical
from attest.cli import app as attest_app
from attest.errors import VitrineError
from attest.log import INTENT_KIND, INTENT_VERSION

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
JOB, OTHER, LOCK = ("sha256:" + digit * 64 for digit in "123")


class Clock:
    """One second later at each look."""

    def __init__(self) -> None:
        self.moment = START

    def __call__(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment


def register(lab: Lab, job: str = JOB) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    lab.register({"job_digest": job, "lock_digest": LOCK, "key_digest": digest_of_key(key)})
    return key


def sign(lab: Lab, key: ec.EllipticCurvePrivateKey, payload: bytes = b"{}") -> bytes:
    certificate = lab.certify(key.public_key(), lab.identity("0" * 64))
    return lab.seal_envelope(payload, "application/vnd.in-toto+json", key, certificate)


def append(lab: Lab, **spec: Any) -> None:
    """Log an intent that says what it likes: whoever has the log's key can."""
    value = {"job_digest": JOB, "lock_digest": LOCK, "key_digest": OTHER, "time": "2027-01-01T00:00:00Z"} | spec
    with lab.log.locked():
        lab.log.append(canonical.dumps({"apiVersion": INTENT_VERSION, "kind": INTENT_KIND, "spec": value}))


def attest(*arguments: object) -> tuple[int, str, Exception | None]:
    """Exit code (as `console.run` gives it), output and error of `attest`."""
    return _invoke(attest_app, arguments)


def appliance_log(*arguments: object) -> tuple[int, str, Exception | None]:
    """The same of `appliance log`."""
    return _invoke(log_app, arguments)


def _invoke(app: typer.Typer, arguments: tuple[object, ...]) -> tuple[int, str, Exception | None]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    error = result.exception if isinstance(result.exception, VitrineError) else None
    return (error.exit_code if error else result.exit_code), result.output, error
