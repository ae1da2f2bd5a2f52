"""Options that say which of the host's hardware speaks for a run, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from appliance.attester.protocol import Attester

AttesterOption = Annotated[
    str | None,
    typer.Option(help="With --wall process, hardware that speaks for the run: auto, or some of tpm,sev-snp,tdx,..."),
]
VcekOption = Annotated[Path | None, typer.Option(help="The chip's certificate, where its host hands out none.")]
TdQuoteOption = Annotated[Path | None, typer.Option(help="On Azure with TDX: the quote of the vTPM's report.")]
KeyCertificateOption = Annotated[
    Path | None, typer.Option(help="Of the TPM's attestation key, see `appliance tpm vouch`.")
]


@dataclass(frozen=True)
class Hardware:
    """The host's hardware that is to speak for a run, and what its vendors say of it."""

    choice: str
    """Its names, or `auto`; empty for none."""
    vcek: Path | None
    """The chip's certificate."""
    td_quote: Path | None
    """The quote of a vTPM's report."""
    key_certificate: Path | None
    """The certificate of the TPM's attestation key."""

    @contextmanager
    def speaking(self) -> Iterator[Attester | None]:
        """The attester, with its devices open."""
        from appliance.attester import host  # brings every platform's package

        given = host.read_given(self.vcek, self.td_quote, self.key_certificate)
        with host.chosen(host.read_choice(self.choice), given) as attester:
            yield attester
