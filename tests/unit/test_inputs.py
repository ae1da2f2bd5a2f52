"""What a job needs behind a wall is found, laid out as it lay, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance.enclave import inputs
from attest.errors import MalformedInput, Unsupported, VerificationError
from tests.conftest import ROOT


def test_relative_paths_are_kept(tmp_path: Path) -> None:
    demo = ROOT / "appliance" / "demo"
    (tmp_path / "jobs" / "deep").mkdir(parents=True)
    (tmp_path / "sets" / "data").mkdir(parents=True)
    shutil.copytree(demo / "suites", tmp_path / "suites")
    for path in (demo / "data").iterdir():
        shutil.copy(path, tmp_path / "sets" / "data")
    suite = (tmp_path / "suites" / "facts.yaml").read_text()
    assert "../data/" in suite
    (tmp_path / "suites" / "facts.yaml").write_text(suite.replace("../data/", "data/"))
    shutil.copy(demo / "organism-q8_0.gguf", tmp_path / "model.gguf")
    job = tmp_path / "jobs" / "deep" / "job.yaml"
    job.write_text(
        "format: vitrine/job/v1\nname: paths\nmodels: [{id: organism, path: ../../model.gguf}]\n"
        "suites: [{path: ../../suites/facts.yaml}]\n"
    )
    found = inputs.find(job, None, (tmp_path / "sets",))
    assert found.job == "/in/jobs/deep/job.yaml"
    assert found.data == ("/in/sets",)
    assert [(item.target, item.shown) for item in found.files] == [
        ("/in/jobs/deep/job.yaml", False),
        ("/in/model.gguf", True),
        ("/in/sets/data/facts.jsonl", False),
        ("/in/suites/facts.yaml", False),
    ]
    inputs.stage(found, tmp_path / "staged")
    staged = tmp_path / "staged"
    assert (staged / "suites" / "facts.yaml").read_bytes() == (tmp_path / "suites" / "facts.yaml").read_bytes()
    assert (staged / "model.gguf").stat().st_size == 0
    modes = {path.stat().st_mode & 0o777 for path in staged.rglob("*")}
    assert modes == {0o755, 0o444}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("organism-q8_0.gguf", "/models/x.gguf"), Unsupported),
        (("organism-q8_0.gguf", "missing.gguf"), VerificationError),
        (("suites/facts.yaml", "/suites/facts.yaml"), MalformedInput),
    ],
)
def test_what_cannot_be_handed_in_is_refused(
    files: Path, change: tuple[str, str], error: type[Exception], tmp_path: Path
) -> None:
    folder = shutil.copytree(files.parent, tmp_path / "demo")
    text = (folder / "small.yaml").read_text()
    assert change[0] in text
    (folder / "small.yaml").write_text(text.replace(*change))
    with pytest.raises(error):
        inputs.find(folder / "small.yaml")


def test_link_in_place_of_a_model_is_refused_as_at_boot(files: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(files.parent, tmp_path / "demo")
    model = folder / "organism-q8_0.gguf"
    model.rename(folder / "real.gguf")
    model.symlink_to("real.gguf")
    with pytest.raises(VerificationError, match="file/not-regular"):
        inputs.find(folder / "small.yaml")
