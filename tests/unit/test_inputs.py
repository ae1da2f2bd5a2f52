"""What a job needs behind a wall is found, laid out as it lay, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance import job as jobs
from appliance.enclave import inputs, measured
from appliance.image.tree import open_content
from appliance.job import Rows
from attest import job as attested
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


def test_part_of_a_job_is_handed_in_as_the_job_that_it_is(files: Path, tmp_path: Path) -> None:
    """Into a container's folder and onto a machine's disk: whoever reads it there needs no option."""
    found = inputs.find(files, rows=Rows(limit=2, shuffle=7))
    wanted = attested.digest(jobs.load(files, Rows(limit=2, shuffle=7)).job)
    assert attested.digest(found.loaded.job) == wanted != attested.digest(jobs.load(files).job)
    inputs.stage(found, tmp_path / "in")
    staged = tmp_path / "in" / Path(found.job).relative_to(inputs.IN)
    assert attested.digest(jobs.load(staged).job) == wanted
    (on_disk,) = [entry for entry in measured.content(found).entries if f"/in{entry.path}" == found.job]
    with open_content(on_disk) as file:
        assert file.read() == staged.read_bytes()
    # The other files are those that lie there, and without the options so is the job.
    assert [item.target for item in found.files if item.written is not None] == [found.job]
    whole = inputs.find(files)
    assert [item.target for item in whole.files] == [item.target for item in found.files]
    assert not any(item.written for item in whole.files)
