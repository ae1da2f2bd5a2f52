"""What a relying party requires of a GPU, and the comparison."""

from __future__ import annotations

from attest.appraisal import Line
from attest.canonical import Model
from attest.nvgpu.claims import Claims


class Policy(Model):
    """The NVIDIA part of an appraisal policy. What it leaves out is refused."""

    drivers: tuple[str, ...] = ()
    """The driver versions allowed: `550.90.07`."""
    vbioses: tuple[str, ...] = ()
    """The VBIOS versions allowed: `96.00.9F.00.01`."""
    protected_pcie: bool = False
    """Whether the links between GPUs have to be in protected mode, as a host with several needs it."""
    unsafe_any_version: bool = False
    """Accept every driver and VBIOS that NVIDIA signed a manifest for, old ones too."""
    unsafe_without_rims: bool = False
    """Accept measurements that no manifest explains, or that differ from it."""
    unsafe_without_revocation: bool = False
    """Accept evidence whose certificates were not checked for revocation."""


def appraise(claims: Claims, policy: Policy) -> tuple[Line, ...]:
    """One line for each rule of the policy."""
    revocation = [sentence for sentence in claims.skipped if "revocation" in sentence]
    differing = [item.block for item in claims.mismatched]
    return (
        Line(
            rule="nvgpu.revocation",
            expected="checked or not" if policy.unsafe_without_revocation else "checked",
            found="; ".join(revocation) or "checked",
            holds=policy.unsafe_without_revocation or not revocation,
            why="a key that leaked is only found by asking for revocations",
        ),
        Line(
            rule="nvgpu.measurements",
            expected="any" if policy.unsafe_without_rims else "all as in the manifests",
            found=f"{len(claims.matched)} as in the manifests, others in blocks {differing}",
            holds=policy.unsafe_without_rims or (bool(claims.matched) and not differing),
            why="other firmware, or firmware in another state, leaves other measurements",
        ),
        Line(
            rule="nvgpu.debug",
            expected="debugging or not" if policy.unsafe_without_rims else "debugging ruled out",
            found="not ruled out" if claims.debug else "ruled out",
            holds=policy.unsafe_without_rims or not claims.debug,
            why="a GPU in a debug mode shows its memory",
        ),
        _manifest_of("nvgpu.driver_rim", claims.driver_rim_version, claims.driver_version, policy),
        _manifest_of("nvgpu.vbios_rim", claims.vbios_rim_version, claims.vbios_version, policy),
        _product(claims, policy),
        _version("nvgpu.driver", claims.driver_version, policy.drivers, policy),
        _version("nvgpu.vbios", claims.vbios_version, policy.vbioses, policy),
        Line(
            rule="nvgpu.protected_pcie",
            expected="protected" if policy.protected_pcie else "protected or not",
            found="protected" if claims.protected_pcie else "not protected",
            holds=claims.protected_pcie or not policy.protected_pcie,
            why="data between GPUs crosses a link that the host could read",
        ),
    )


def _manifest_of(rule: str, manifest: str | None, reported: str, policy: Policy) -> Line:
    return Line(
        rule=rule,
        expected="any" if policy.unsafe_without_rims else f"a manifest of {reported}",
        found=manifest or "none",
        holds=policy.unsafe_without_rims or (manifest is not None and manifest.upper() == reported.upper()),
        why="the values of another version say nothing on this one",
    )


def _product(claims: Claims, policy: Policy) -> Line:
    chip = claims.model.split(" ")[0]
    return Line(
        rule="nvgpu.product",
        expected="any" if policy.unsafe_without_rims else f"manifests of {chip}",
        found=", ".join(claims.rim_products) or "none",
        holds=policy.unsafe_without_rims or set(claims.rim_products) == {chip},
        why="the values of another chip say nothing on this one",
    )


def _version(rule: str, reported: str, allowed: tuple[str, ...], policy: Policy) -> Line:
    return Line(
        rule=rule,
        expected="any" if policy.unsafe_any_version else " or ".join(allowed) or "a policy that names versions",
        found=reported,
        holds=policy.unsafe_any_version or reported in allowed,
        why="an older version has known holes",
    )
