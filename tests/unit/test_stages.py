"""Which models are loaded together: each once, from its first suite to its last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.schedule import stages
from attest.job import Job

NAMES = "abcd"


def job(schedule: str | None) -> Job:
    """A job on four models."""
    return Job.model_validate_json(
        '{"format":"vitrine/job/v1","name":"x","models":['
        + ",".join(f'{{"id":"{name}","path":"x"}}' for name in NAMES)
        + '],"suites":[{"path":"s"}]'
        + (f',"schedule":"{schedule}"}}' if schedule else "}")
    )


NEEDS = st.lists(st.frozensets(st.sampled_from(NAMES), min_size=1), min_size=1, max_size=12)


def test_a_judge_stays_beside_the_models_that_need_it() -> None:
    needs = [frozenset("aj"), frozenset("a"), frozenset("bj"), frozenset("b"), frozenset("c")]
    found = stages(job("sequential"), needs)
    assert [(list(stage.entries), "".join(sorted(stage.models))) for stage in found] == [
        ([0, 1], "aj"),
        ([2], "bj"),
        ([3], "b"),
        ([4], "c"),
    ]


@given(NEEDS)
def test_every_model_is_there_when_needed_and_is_loaded_once(needs: list[frozenset[str]]) -> None:
    found = stages(job("sequential"), needs)
    assert [place for stage in found for place in stage.entries] == list(range(len(needs)))
    assert all(needs[place] <= stage.models for stage in found for place in stage.entries)
    for name in NAMES:
        there = "".join("1" if name in stage.models else "0" for stage in found)
        assert "0" not in there.strip("0")
    assert frozenset().union(*(stage.models for stage in found)) == frozenset().union(*needs)


@given(NEEDS, st.sampled_from([None, "concurrent"]))
def test_all_models_at_once_without_it(needs: list[frozenset[str]], schedule: str | None) -> None:
    (stage,) = stages(job(schedule), needs)
    assert (stage.entries, stage.models) == (range(len(needs)), frozenset(NAMES))
