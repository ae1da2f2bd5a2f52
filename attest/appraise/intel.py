"""Chooses, of all of Intel's collateral in a capsule, what fits to one quote. Whether it holds is for `attest.tdx`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest import canonical
from attest import chain as chains
from attest.errors import MalformedInput
from attest.tdx import Domain, Endorsements, Signed, certificates, parse, pck, signed

Answers = Iterable[tuple[bytes, bytes]]
"""Intel's answers, each with the chain that came with it."""


def endorsements(
    quote: bytes, roots: Sequence[bytes], lists: Iterable[bytes], infos: Answers, identities: Answers
) -> Endorsements:
    """Of all that (pinned roots; the newest first) what fits to `quote`; None for what is missing.

    Raises `MalformedInput`, `Unsupported`.
    """
    parsed = parse(quote)
    chain = certificates.load_chain(parsed.pck_chain, "PCK chain")
    leaf, named = chain[0], chain[-1].public_bytes(Encoding.DER)
    root = named if named in roots else roots[0]
    of_domain = isinstance(parsed.body, Domain)
    crls: dict[x509.Name, bytes] = {}
    for data in lists:
        crls.setdefault(certificates.load_crl(data, "revocation list").issuer, data)
    fmspc = pck.read(leaf).fmspc.hex().upper()
    return Endorsements(
        root=root,
        root_crl=crls.get(chains.load(root, "root certificate").subject),
        pck_crl=crls.get(leaf.issuer),
        tcb_info=_info(infos, "TDX" if of_domain else "SGX", fmspc),
        qe_identity=_identity(identities, "TD_QE" if of_domain else "QE"),
    )


def _info(answers: Answers, kind: str, fmspc: str) -> Signed | None:
    for data, chain in answers:
        body = _body(data, "tcbInfo")
        if (body.get("id", "SGX"), str(body.get("fmspc")).upper()) == (kind, fmspc):
            return signed(data, "tcbInfo", chain)
    return None


def _identity(answers: Answers, kind: str) -> Signed | None:
    for data, chain in answers:
        if _body(data, "enclaveIdentity").get("id") == kind:
            return signed(data, "enclaveIdentity", chain)
    return None


def _body(answer: bytes, field: str) -> dict[str, canonical.JSON]:
    value = canonical.loads(answer, "Intel's answer")
    body = value.get(field) if isinstance(value, dict) else None
    if not isinstance(body, dict):
        raise MalformedInput("Intel's answer", f"expected {field}")
    return body
