"""Paths into the package: they lead to its files, and never out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import job as files
from appliance import resources
from attest.errors import MalformedInput
from tests.unit.test_job import write


def test_resources_lead_into_the_package(tmp_path: Path) -> None:
    assert files.locate("resource:demo/suites/addition.yaml", tmp_path) == resources.demo() / "suites" / "addition.yaml"
    assert files.locate("resource:policy/seccomp/eval.toml", tmp_path).is_file()
    assert files.locate("resources/x.yaml", tmp_path) == tmp_path / "resources" / "x.yaml"


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "unknown/x",
        "",
        "/",
        "demo",
        "demo/",
        "demo//etc/passwd",
        "/etc/passwd",
        "demo/../../attest/job.py",
        "demo/suites/../../job.py",
        "demo/./job.yaml",
        "demo/suites/",
        "..",
        "demo/..",
        "DEMO/job.yaml",
        "resource:demo/job.yaml",
        "demo\\..\\..\\x",
    ],
)
def test_a_resource_never_leads_out_of_the_package(tmp_path: Path, path: str) -> None:
    with pytest.raises(MalformedInput, match="resource"):
        files.locate(f"resource:{path}", tmp_path)
    with pytest.raises(MalformedInput):
        files.load_suites(files.load(write(tmp_path, suites=[{"path": f"resource:{path}"}])))


@given(st.lists(st.sampled_from(["demo", "images", "policy", "..", ".", "", "etc", "a:b", "\\", "~"]), max_size=6))
def test_any_resource_path_is_refused_or_inside(parts: list[str]) -> None:
    folders = (resources.demo(), resources.images(), resources.policy())
    try:
        found = resources.inside("/".join(parts))
    except MalformedInput:
        return
    assert any(found.resolve().is_relative_to(folder.resolve()) and found != folder for folder in folders)
