"""Models that are loaded in turn: measured at the boot as all others, and compared with that at each reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.boot import BootRefused
from tests.fakes.booted import MODEL, SHARDS, Folder, descriptors


@pytest.fixture
def lab(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_models_in_turn_are_measured_as_all_others_and_held_while_they_are_asked_for(lab: Folder) -> None:
    before = descriptors()
    with lab.boot() as whole, lab.boot(hold=("big",)) as booted:
        assert booted.log.dump() == whole.log.dump()
        assert {name: [shard.tensors for shard in found] for name, found in booted.headers.items()} == {
            name: [shard.tensors for shard in found] for name, found in whole.headers.items()
        }
        held = descriptors()
        assert booted.file("model", "organism")[0].fd < 0 <= booted.file("model", "big")[0].fd
        assert booted.model("organism").read() == (lab.root / MODEL).read_bytes()
        assert booted.model("organism") is booted.model("organism")
        assert descriptors() == held + 1
        booted.let_go("organism")
        booted.let_go("big")  # it is held to the end
        assert descriptors() == held
        assert booted.model("big").fd >= 0
    assert descriptors() == before


def test_shards_in_turn_are_merged_each_time(lab: Folder) -> None:
    with lab.boot() as whole, lab.boot(hold=()) as booted:
        before = descriptors()
        for _ in range(2):
            assert booted.model("big").read() == whole.model("big").read()
            assert descriptors() == before + 1
            booted.let_go("big")
            assert descriptors() == before


@pytest.mark.parametrize("path", [MODEL, SHARDS[1]])
def test_model_that_changed_since_it_was_measured_is_not_loaded(lab: Folder, path: str) -> None:
    name = "organism" if path == MODEL else "big"
    with lab.boot(hold=()) as booted:
        before = descriptors()
        lab.flip(path)
        with pytest.raises(BootRefused, match=name):
            booted.model(name)
        (lab.root / path).unlink()
        with pytest.raises(BootRefused, match="nothing"):
            booted.model(name)
        assert descriptors() == before


@pytest.mark.parametrize("path", [MODEL, SHARDS[2]])
def test_models_in_turn_are_refused_as_all_others(lab: Folder, path: str) -> None:
    lab.flip(path)
    before = descriptors()
    with pytest.raises(BootRefused):
        lab.boot(hold=())
    assert descriptors() == before
