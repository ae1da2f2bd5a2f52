"""The examples in examples/deploy: valid by their platforms' own schemas, and as strict as the wall itself."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from appliance.enclave import seccomp
from appliance.seal import kernel
from tests.conftest import ROOT

DEPLOY = ROOT / "examples" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def pod() -> Any:
    return load(DEPLOY / "kubernetes" / "job.yaml")["spec"]["template"]["spec"]


def unit(path: Path) -> configparser.RawConfigParser:
    """A systemd unit; a key that is given twice counts once."""
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text("utf-8"))
    return parser


# --- by the platforms' own schemas and tools -------------------------------------------------------------------------


def test_compose_file_follows_the_specification() -> None:
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DEPLOY / "compose" / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    broken = subprocess.run(
        [*command, "/dev/stdin"], input="services: {run: {read_only: {}}}", capture_output=True, text=True
    )
    assert broken.returncode != 0


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_kubernetes_objects_follow_their_schemas(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    value = load(path)
    version = validate.latest_version()
    validate.validate(value, version, strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(value | {"surprise": 1}, version, strict=True)


def test_quadlet_is_what_the_generator_takes(tmp_path: Path) -> None:
    places = ("/usr/lib/systemd/system-generators/podman-system-generator", "/usr/libexec/podman/quadlet")
    generator = next((place for place in places if Path(place).exists()), None)
    if generator is None:
        pytest.skip("no podman with Quadlet (4.4) on this host")
    shutil.copy(DEPLOY / "quadlet" / "vitrine-run.container", tmp_path)
    done = subprocess.run(
        [generator, "--dryrun"], capture_output=True, text=True, env={"QUADLET_UNIT_DIRS": str(tmp_path)}
    )
    assert done.returncode == 0 and "unsupported" not in done.stderr.lower(), done.stderr
    for words in ("--network", "none", "--read-only", "--cap-drop", "seccomp=/etc/vitrine/seccomp.json"):
        assert words in done.stdout


def test_systemd_unit_is_valid(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("no systemd-analyze on this host")
    text = (DEPLOY / "systemd" / "vitrine-run@.service").read_text().replace("/usr/bin/appliance", "/bin/true")
    (tmp_path / "vitrine-run@demo.service").write_text(text)
    done = subprocess.run(
        [tool, "verify", "--man=no", str(tmp_path / "vitrine-run@demo.service")], capture_output=True, text=True
    )
    ours = [line for line in done.stderr.splitlines() if "vitrine-run" in line]
    assert not ours, ours


# --- by what they are to say -----------------------------------------------------------------------------------------


def test_pod_follows_the_restricted_standard() -> None:
    """The controls of the Pod Security standard `restricted`, one line each."""
    spec = pod()
    contexts = [spec["securityContext"], *(one["securityContext"] for one in spec["containers"])]
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "initContainers"))
    assert not any(context.get("privileged") for context in contexts)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert all(context.get("runAsUser", 65532) != 0 for context in contexts)
    assert spec["securityContext"]["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    assert not any(key in context for context in contexts for key in ("procMount", "seLinuxOptions", "sysctls"))
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for one in spec["containers"]:
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in one.get("ports", ()))


def test_pod_is_stricter_than_that() -> None:
    spec, account = pod(), load(DEPLOY / "kubernetes" / "service-account.yaml")
    assert spec["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == account["metadata"]["name"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"] == container["resources"]["requests"]
    assert "@sha256:" in container["image"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert mounts["job"]["readOnly"] is True
    assert {volume["name"] for volume in spec["volumes"]} == set(mounts)


def test_network_policy_lets_nothing_through() -> None:
    policy = load(DEPLOY / "kubernetes" / "network-policy.yaml")
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = load(DEPLOY / "kubernetes" / "namespace.yaml")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {load(path)["metadata"].get("namespace", "vitrine") for path in KUBERNETES} == {"vitrine"}


def test_compose_service_is_as_strict() -> None:
    (service,) = load(DEPLOY / "compose" / "compose.yaml")["services"].values()
    assert (service["network_mode"], service["read_only"], service["user"]) == ("none", True, "65532:65532")
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert {"no-new-privileges:true", "seccomp:./seccomp.json"} == set(service["security_opt"])
    assert [volume["target"] for volume in service["volumes"] if not volume.get("read_only")] == ["/lab", "/out"]


def test_quadlet_is_as_strict() -> None:
    section = unit(DEPLOY / "quadlet" / "vitrine-run.container")["Container"]
    wanted = {
        "Network": "none",
        "ReadOnly": "true",
        "User": "65532",
        "DropCapability": "all",
        "NoNewPrivileges": "true",
    }
    assert {key: section[key] for key in wanted} == wanted
    assert section["SeccompProfile"].endswith("seccomp.json")


def test_every_example_runs_the_appliance_alike() -> None:
    (service,) = load(DEPLOY / "compose" / "compose.yaml")["services"].values()
    (container,) = pod()["containers"]
    section = unit(DEPLOY / "quadlet" / "vitrine-run.container")["Container"]
    assert service["entrypoint"] == container["command"] == json.loads(section["Entrypoint"])
    assert service["command"] == container["args"] == section["Exec"].split()


def test_generated_policy_is_the_one_of_the_wall() -> None:
    done = subprocess.run([sys.executable, "-m", "appliance.enclave.seccomp"], capture_output=True, check=True)
    expected = seccomp.to_oci(seccomp.parse(seccomp.read()), kernel.architecture())
    assert json.loads(done.stdout) == expected
