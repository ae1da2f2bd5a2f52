"""The seal of a worker process: planned as data, carried out once, probed from inside.

The controller plans (`plan_for`; shown, hashed, named in the manifest) and starts the worker (`spawn`). The worker
imports and loads all its code, reads what it was given (`received`), seals itself (`enter`, which raises when a
mandatory layer is not in force), probes (`probe`), and reports both before it sees untrusted bytes.
"""

from appliance.seal.enter import enter
from appliance.seal.launch import Worker, received, sealed_file, spawn
from appliance.seal.outcome import SealLevel, SealOutcome, seal_level
from appliance.seal.paths import interpreter_paths
from appliance.seal.plan import Kind, SealPlan, plan_for
from appliance.seal.probe import ProbeResult, probe, violations
from appliance.seal.requirement import Requirement, given_by, require
from appliance.seal.reserve import Reserve
from attest.seal import Layer
from attest.sealplan import ReadOnlyPath

__all__ = [
    "Kind",
    "Layer",
    "ProbeResult",
    "ReadOnlyPath",
    "Requirement",
    "Reserve",
    "SealLevel",
    "SealOutcome",
    "SealPlan",
    "Worker",
    "enter",
    "given_by",
    "interpreter_paths",
    "plan_for",
    "probe",
    "received",
    "require",
    "seal_level",
    "sealed_file",
    "spawn",
    "violations",
]
