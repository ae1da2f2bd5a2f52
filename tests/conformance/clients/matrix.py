"""Every client against a good bundle and its tampered variants, offline; prints a table, fails on any deviation.

    python -m tests.conformance.clients.matrix                                   a bundle of a lab made for the occasion
    python -m tests.conformance.clients.matrix BUNDLE TRUSTED_ROOT TRUST_CONFIG ARTIFACT IDENTITY ISSUER

Clients that are not here yet are fetched first, by setup.sh. Then every stock client runs without a network.

Exit code 0: the good bundle is accepted by all, each of the ten variants is rejected by all, each of the disputed ones
is rejected by our verifier and treated by the stock clients as recorded below. 1: a deviation. 2: a client is missing.
"""

# ruff: noqa: T201 - a table is what this program is for

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.notary import lab as notary
from attest import canonical
from tests.conformance.clients import stock_clients, tampering
from tests.conformance.clients.stock_clients import Answer, Client, Missing
from tests.conformance.clients.tampering import Case, Forger

PREDICATE_TYPE = "https://vitrine.dev/execution-manifest/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

ACCEPTS_DISPUTED: dict[str, set[str]] = {
    "timestamp-signature": {"sigstore-python"},  # the log's promise gives it a time, so it passes over the timestamp
    "timestamp-kind": {"cosign"},  # it does not look at the kind of content that was stamped
    "tree-size": {"sigstore-js"},  # it takes the size from the checkpoint
    "proof-index": set(),
    "key-hint": set(),
    "unknown-field": {"sigstore-js"},  # it reads what it knows
}
"""Which stock client, in the pinned version, accepts a disputed variant all the same: facts, kept so that they show."""


def clients(trusted_root: Path, trust_config: Path) -> list[Client]:
    """All clients. Raises `Missing` for the first that is not here."""
    return [
        stock_clients.ours(trusted_root),
        stock_clients.sigstore_python(trust_config),
        stock_clients.sigstore_js(trusted_root),
        stock_clients.cosign(trusted_root),
    ]


def sample(scratch: Path) -> tuple[Case, Forger]:
    """A lab, and a bundle that it made after two runs were registered."""
    lab = notary.create(scratch / "lab", now=lambda: datetime.now(UTC))
    key = ec.generate_private_key(ec.SECP256R1())
    artifact = scratch / "results.json"
    artifact.write_bytes(b'{"score":"0.71"}\n')
    digest = "sha256:" + hashlib.sha256(b"job").hexdigest()
    for _ in range(2):
        lab.register({"job_digest": digest, "lock_digest": digest, "key_digest": digest})
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "results.json", "digest": {"sha256": hashlib.sha256(artifact.read_bytes()).hexdigest()}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"sample": "of the client matrix"},
    }
    identity = lab.identity(hashlib.sha256(b"image").hexdigest())
    certificate = lab.certify(key.public_key(), identity)
    bundle = lab.seal_envelope(canonical.dumps(statement), PAYLOAD_TYPE, key, certificate)
    return Case("good", "as it was made", bundle, artifact, identity, lab.issuer), Forger(lab, key, scratch)


def run(good: Case, asked: list[Client], scratch: Path, forger: Forger | None) -> list[str]:
    """Ask everybody about everything, print the table, and return the deviations."""
    deviations, reasons = [], []
    print(f"{'variant':20} {'what is wrong':48}" + "".join(f" {client.name:16}" for client in asked))
    ten, disputed = tampering.ten(good, scratch, forger), tampering.disputed(good)
    for case in [good, *ten, *disputed]:
        answers = {client.name: client.ask(case) for client in asked}
        may = ACCEPTS_DISPUTED.get(case.name, set())
        for name, answer in answers.items():
            expected = case is good or name in may
            if answer.accepted != expected:
                wanted = "accepted" if expected else "rejected"
                deviations.append(f"{case.name}: {name} should have {wanted} it; {_word(answer)} {answer.reason}")
        print(f"{case.name:20} {case.what:48}" + "".join(f" {_word(answer):16}" for answer in answers.values()))
        reasons += [f"{case.name}: {name}: {answer.reason}" for name, answer in answers.items() if not answer.accepted]
    print("\nwhy rejected", *reasons, sep="\n  ")
    return deviations


def main(arguments: list[str]) -> int:
    """The command line."""
    if arguments and len(arguments) != 6:
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        forger: Forger | None = None
        if arguments:
            bundle, trusted_root, trust_config, artifact = (Path(argument).resolve() for argument in arguments[:4])
            good = Case("good", "as given", bundle.read_bytes(), artifact, arguments[4], arguments[5])
        else:
            good, forger = sample(scratch)
            trusted_root, trust_config = (
                forger.lab.path / "public" / name for name in ("trusted_root.json", "trust_config.json")
            )
        try:
            if not stock_clients.fetched():
                subprocess.run([str(stock_clients.HERE / "setup.sh")], check=False)
            asked = clients(trusted_root, trust_config)
        except Missing as missing:
            print(f"cannot ask every client: {missing}", file=sys.stderr)
            return 2
        deviations = run(good, asked, scratch, forger)
    for deviation in deviations:
        print(f"DEVIATION {deviation}", file=sys.stderr)
    print("every client answered as it should" if not deviations else f"{len(deviations)} deviations")
    return 1 if deviations else 0


def _word(answer: Answer) -> str:
    return "accepted" if answer.accepted else "rejected"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
