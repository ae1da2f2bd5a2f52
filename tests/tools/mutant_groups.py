"""What `tests.tools.mutants` tries: groups of checking modules, with the tests that are theirs."""

LOG = ["test_durable", "test_merkle", "test_log", "test_log_checkpoint", "test_ledger", "test_notary_log",
       "test_notary_lab", "test_bundle", "test_transcript", "test_witness", "test_growth", "test_counter",
       "test_tiles"]  # fmt: skip
LONG = ["test_run.py::test_one_flipped_byte_stops_the_boot", "test_run.py::test_run_that_is_ended_early",
        "test_run.py::test_incomplete_run_that_is_signed_says_so", "test_run.py::test_same_job_gives_the_same_bytes",
        "test_run.py::test_any_flipped_byte_is_rejected", "test_run.py::test_missing_file_and_surplus_file_are_refused",
        "test_evidence.py::test_runs_are_numbered_by_the_counter_of_the_tpm",
        "test_reproduction.py::test_a_part_that_was_drawn_again", "test_reproduction.py::test_another_job_is_no_rerun",
        "test_seal_claims.py::test_run_with_another_system_call_policy"]  # fmt: skip
"""Tests that are left out: they run jobs of their own, or try the same in hundreds of places."""
GROUPS: dict[str, tuple[list[str], list[str]]] = {
    "tpm": (["attest/tpm"], ["tests/unit/tpm", "tests/unit/test_machine_evidence.py"]),
    "sevsnp": (["attest/sevsnp"], ["tests/unit/sevsnp", "tests/unit/test_snp_launch.py"]),
    "tdx": (["attest/tdx"], ["tests/unit/tdx", "tests/unit/test_attester_tdx.py"]),
    "nitro": (["attest/nitro", "attest/cose.py", "attest/cbor.py", "attest/chain.py"],
        ["tests/unit/nitro", "tests/unit/test_certificates.py"],
    ),
    "azure": (["attest/azure"], ["tests/unit/azure"]),
    "nvgpu": (["attest/nvgpu"], ["tests/unit/nvgpu"]),
    "appraisal": (
        ["attest/appraise", "attest/capsule.py", "attest/validity.py", "attest/binding.py", "attest/machine.py",
         "attest/evidence.py", "attest/appraisal.py"],
        ["tests/unit/test_capsule.py", "tests/unit/test_machine_evidence.py", "tests/unit/test_policy.py",
         "tests/unit/test_certificates.py", "tests/unit/test_hostile_formats.py", "tests/unit/test_ear.py",
         "tests/unit/test_items.py", "tests/unit/test_collateral.py", "tests/unit/test_capsule_bounds.py",
         "tests/integration/test_appraise.py"],
    ),
    "verify": (
        ["attest/verify.py", "attest/attempt.py", "attest/recompute.py", "attest/hardware.py", "attest/conclusions.py",
         "attest/reproduction.py", "attest/evidence.py", "attest/binding.py"],
        ["tests/integration/test_verify.py", "tests/integration/test_run.py", "tests/integration/test_evidence.py",
         "tests/integration/test_evidence_machine.py", "tests/unit/test_recompute.py",
         "tests/integration/test_reproduction.py", "tests/integration/test_seal_claims.py",
         "tests/unit/test_conclusions.py", "tests/unit/test_evidence_package.py", "tests/unit/test_witness.py",
         "tests/unit/test_counter.py::test_an_intent_has_the_counter_of_the_evidence",
         ],
    ),
    "judging": (
        ["attest/appraise/platforms.py", "attest/appraise/verdict.py", "attest/appraise/policy.py",
         "attest/appraise/image.py", "attest/tpm/policy.py", "attest/tpm/signaturelist.py", "attest/appraisal.py"],
        ["tests/unit/test_collateral.py", "tests/unit/test_platforms.py",
         "tests/unit/test_appraise_image.py", "tests/unit/test_verdict.py", "tests/unit/tpm/test_tpm_policy.py",
         "tests/unit/tpm/test_tpm_signaturelist.py", "tests/integration/test_appraise.py",
         "tests/integration/test_appraise_vectors.py"],
    ),
    "machine": (
        ["attest/machine.py", "attest/policy.py", "attest/counter.py"],
        ["tests/unit/test_machine_evidence.py", "tests/unit/test_counter.py", "tests/unit/test_policy.py",
         "tests/unit/test_rollback.py"],
    ),
    "log": (
        ["attest/leaf.py", "attest/merkle.py", "attest/checkpoint.py", "attest/log.py", "attest/cosignature.py",
         "attest/witnessed.py", "attest/durable.py", "attest/witness.py", "attest/growth.py", "attest/tiles.py",
         "attest/ledger.py"],
        [f"tests/unit/{name}.py" for name in LOG] + ["tests/unit/signatures"],
    ),
    "versions": (
        ["attest/rollback.py", "attest/launch.py"],
        ["tests/unit/test_rollback.py", "tests/unit/test_launch.py"],
    ),
    "results": (
        ["attest/aggregate.py", "attest/comparison.py", "attest/attacks.py"],
        ["tests/unit/test_aggregate.py", "tests/unit/test_attack_results.py", "tests/unit/test_results.py",
         "tests/unit/test_results_tables.py"],
    ),
}  # fmt: skip
"""Modules, and the tests that are theirs."""
