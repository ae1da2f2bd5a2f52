"""Versions in the memory of a TPM (`attest.rollback`): what is older than what ran on this machine is refused here.

Nothing is written before everything that was asked for is admitted. An index that holds something else, or nothing
because power failed after it was made, is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.attester import tpm_commands as commands
from appliance.enclave.tpm_device import Tpm
from attest import rollback
from attest.errors import EnvironmentProblem, MalformedInput
from attest.rollback import INDEXES, Kept, Thing


def admit(tpm: Tpm, asked: Sequence[Kept]) -> dict[int, int]:
    """Have the TPM keep what is `asked` for; the size of each index that does, by its number, in the same order.

    Raises `VerificationError` (`rollback/version`) for a version below the one that is kept; `EnvironmentProblem` where
    the TPM has no room.
    """
    held = _held(tpm)
    for one in asked:
        rollback.admit(one, _version(held, one.thing))
    return {_keep(tpm, held, one): len(one.encoded) for one in asked}


def _keep(tpm: Tpm, held: dict[int, Kept | None], asked: Kept) -> int:
    """The index that keeps what is `asked` for, written where it did not."""
    index = next((index for index, kept in held.items() if kept and kept.thing == asked.thing), None)
    if index is None:
        index = next((index for index in INDEXES if index not in held), None)
        if index is None:
            raise EnvironmentProblem(
                f"the TPM keeps versions of {len(INDEXES)} jobs and images already: remove one that is not used any "
                f"more (tpm2_nvundefine {INDEXES.start:#x} and on)"
            )
        commands.define(tpm, index, commands.ORDINARY, len(asked.encoded))
    if held.get(index) != asked:
        commands.nv_write(tpm, index, asked.encoded)
        held[index] = asked
    return index


def _held(tpm: Tpm) -> dict[int, Kept | None]:
    """What each index that there is keeps; None where it is not one of ours."""
    held: dict[int, Kept | None] = {}
    for index in INDEXES:
        try:
            commands.nv_public(tpm, index)
        except EnvironmentProblem:
            continue  # no such index
        try:
            held[index] = rollback.read(commands.nv_read(tpm, index))
        except (EnvironmentProblem, MalformedInput):
            held[index] = None
    return held


def _version(held: dict[int, Kept | None], thing: Thing) -> int | None:
    return max((kept.version for kept in held.values() if kept and kept.thing == thing), default=None)
