"""`appliance image` without packages: what it prints, and that bad input ends in one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance.image import listing, oci, secure_boot
from appliance.image.cli import app
from appliance.image.spec import FILES_TYPE
from attest.errors import EnvironmentProblem, MalformedInput, VitrineError
from tests.conftest import ENGINES, ROOT
from tests.tools.image_layouts import small_recipe, small_tree


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A small image."""
    trees = [("base", small_tree())]
    oci.write(tmp_path / "image", small_recipe(), "amd64", trees, {FILES_TYPE: listing.dump(trees)})
    return tmp_path / "image"


def test_inspect_prints_what_takes_the_space(image: Path) -> None:
    done = CliRunner().invoke(app, ["inspect", str(image)], catch_exceptions=False)
    assert done.exit_code == 0
    done = CliRunner().invoke(app, ["inspect", str(image), "--json"], catch_exceptions=False)
    value = json.loads(done.stdout)
    assert [layer["name"] for layer in value["layers"]] == ["base"]
    assert {line["path"] for line in value["files"]} == {entry.path for entry in small_tree().entries}


def test_unpack_writes_the_files(image: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["unpack", str(image), str(tmp_path / "root")], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "root" / "usr" / "bin" / "program").read_bytes() == b"\x7fELF program"


def test_bad_input_ends_in_our_errors(tmp_path: Path) -> None:
    for arguments in (
        ["inspect", str(tmp_path / "none")],
        ["build", str(tmp_path / "none.toml"), "--out", str(tmp_path / "out")],
        ["lock", str(tmp_path / "none.toml")],
        ["build", str(ROOT / "images" / "cpu.toml"), "--out", str(tmp_path / "out"), "--leave-out", "base"],
    ):
        with pytest.raises(MalformedInput):
            CliRunner().invoke(
                app, [*arguments, *(["--engines", str(ENGINES)] * ("build" in arguments))], catch_exceptions=False
            )
    assert not (tmp_path / "out").exists()


def test_keys_are_made_once_and_shown(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    done = CliRunner().invoke(app, ["keys", "--out", str(keys)], catch_exceptions=False)
    assert done.exit_code == 0
    assert {path.name for path in keys.iterdir()} == {
        f"{name}.{form}" for name in secure_boot.VARIABLES for form in ("key", "crt", "esl")
    }
    assert "PRIVATE KEY" not in done.stdout
    with pytest.raises(EnvironmentProblem, match="name a new folder"):
        CliRunner().invoke(app, ["keys", "--out", str(keys)], catch_exceptions=False)


def test_signing_takes_key_and_certificate_of_a_machine(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    secure_boot.make(keys, "lab")
    key, certificate = ["--sign-key", str(keys / "db.key")], ["--sign-cert", str(keys / "db.crt")]
    vm = [str(ROOT / "images" / "vm.toml"), "--format", "uki"]
    wrong: list[tuple[list[str], type[VitrineError], str]] = [
        ([*vm, *key], EnvironmentProblem, "go together"),
        ([*vm, *certificate], EnvironmentProblem, "go together"),
        ([*vm, "--enrolled", str(keys)], EnvironmentProblem, "go together"),
        ([*vm, *key, "--sign-cert", str(keys / "PK.crt")], MalformedInput, "of another key"),
        ([*vm, "--sign-key", str(keys / "none"), *certificate], EnvironmentProblem, "appliance image keys"),
        ([*vm, *key, *certificate, "--enrolled", str(tmp_path)], MalformedInput, "appliance image keys"),
        ([str(ROOT / "images" / "cpu.toml"), *key, *certificate], EnvironmentProblem, "--format uki"),
    ]
    for arguments, error, words in wrong:
        with pytest.raises(error, match=words):
            CliRunner().invoke(app, ["build", *arguments, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert not (tmp_path / "out").exists()
