"""The eval loop: one record for each task, whatever the model worker replies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.evals import prompts
from appliance.evals.plan import Planned
from appliance.evals.run import AHEAD, run
from appliance.evals.suite import Suite
from attest import canonical
from attest.canonical import MAX_INTEGER
from attest.digest import digest_of
from attest.job import Job
from attest.results import PlannedSuite, tabulate
from attest.sample import SampleRecord
from tests.fakes.models import Desk

D = digest_of(b"logits")
ROWS = [{"question": "Why?", "answer": "1"}, {"question": "Who?", "answer": "0"}]
GENERATION = {"tokens": [5, 6], "text": "1", "stop": "eos", "logprobs": ["-0.100000", "-0.200000"], "logits_digest": D}
GENERATED = {"prompt_tokens": [1, 2], "generation": GENERATION}


def choice(text: str, logprob: str = "-1.000000", **more: Any) -> dict[str, Any]:
    return {"text": text, "tokens": [7], "logprob": logprob, "logits_digest": D, **more}


CHOSEN = {"prompt_tokens": [1, 2], "choices": [choice("a", "-2.000000"), choice("b")]}


def suite(**more: Any) -> Suite:
    value: dict[str, Any] = {
        "format": "vitrine/suite/v1",
        "name": "arc",
        "dataset": {"path": "rows.jsonl", "digest": digest_of(b""), "format": "jsonl"},
        "columns": {"target": "{{ answer }}"},
        "prompt": {"system": "Be brief.", "user": "{{ question }}"},
        "scorers": [{"scorer": "exact"}, {"scorer": "refusal"}],
        **more,
    }
    return canonical.validate(Suite, value, "suite")


JOB = canonical.validate(
    Job,
    {
        "format": "vitrine/job/v1",
        "name": "demo",
        "seed": 7,
        "models": [{"id": "m", "path": "x"}, {"id": "n", "path": "y"}],
        "suites": [{"path": "s"}],
        "limits": {"sample_timeout_s": 9},
    },
    "job",
)
GENERATE = suite(stop=["\n"])
CHOOSE = suite(
    solver="choose", scorers=[{"scorer": "choice"}], columns={"target": "{{ answer }}", "choices": ["a", "b"]}
)


def planned(spec: Suite, rows: list[dict[str, Any]] = ROWS[:1], route: int = 0, model: str = "m") -> Planned:
    return Planned({"target": (route, model)}, spec, prompts.tasks(spec, rows))


def run_with(spec: Suite) -> dict[str, Any]:
    """The one request of a run of `spec`."""
    desk = Desk(lambda route, request: GENERATED)
    list(run(JOB, [planned(spec)], desk))
    return desk.asked[0][1]


def answered(spec: Suite, reply: Any) -> SampleRecord:
    """The one record of a run whose model gives `reply`; it has to be fit for the transcript."""
    (record,) = run(JOB, [planned(spec)], Desk(lambda route, request: reply))
    canonical.parse(SampleRecord, canonical.dump_model(record), "record")
    return record


def test_a_completion_is_scored() -> None:
    record = answered(GENERATE, GENERATED)
    assert (record.model, record.suite, record.index, record.id, record.target) == ("m", "arc", 0, "000000", "1")
    assert record.scores == {"exact": "1", "refusal": "0"}
    assert (record.prompt_tokens, record.error, record.choices) == ((1, 2), None, None)
    assert record.generation is not None
    assert record.generation.tokens == (5, 6)


def test_options_are_scored() -> None:
    record = answered(CHOOSE, CHOSEN)
    assert record.scores == {"choice": "1"}
    assert record.choices is not None
    assert [option.text for option in record.choices] == ["a", "b"]
    swapped = {**CHOSEN, "choices": [choice("a"), choice("b", "-2.000000")]}
    assert answered(CHOOSE, swapped).scores == {"choice": "0"}


def test_a_scorer_without_an_answer_leaves_a_reason() -> None:
    spec = suite(scorers=[{"scorer": "numeric"}, {"scorer": "exact"}], columns={"target": "none"})
    record = answered(spec, GENERATED)
    assert record.scores == {"exact": "0"}
    assert "no number" in record.unscored["numeric"]


def test_what_is_asked() -> None:
    desk = Desk(lambda route, request: GENERATED if request["op"] == "generate" else CHOSEN)
    hot = suite(name="hot", sampling={"temperature": "0.7"})
    plan = [planned(GENERATE, ROWS), planned(CHOOSE, route=1, model="n"), planned(hot)]
    records = list(run(JOB, plan, desk))
    asked = desk.asked
    assert [(record.model, record.suite, record.index) for record in records] == [
        ("m", "arc", 0),
        ("m", "arc", 1),
        ("n", "arc", 0),
        ("m", "hot", 0),
    ]
    assert [route for route, _ in asked] == [0, 0, 1, 0]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert asked[0][1] == {
        "op": "generate",
        "messages": messages,
        "timeout_s": 9,
        "sampling": JOB.sampling.model_dump(),
        "stop": ["\n"],
        "seed": 7,
        "stream": "arc/000000",
        "grammar": None,
    }
    assert 'root ::= "a"' in run_with(suite(name="held", grammar='root ::= "a"'))["grammar"]
    assert "::=" in run_with(suite(name="json", json_schema={"type": "integer"}))["grammar"]
    assert asked[1][1]["stream"] == "arc/000001"
    assert asked[2][1] == {"op": "choose", "messages": messages, "timeout_s": 9, "options": ["a", "b"]}
    assert asked[3][1]["sampling"]["temperature"] == "0.7"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 5), st.integers(1, 40))
def test_records_come_in_the_order_of_the_plan_whatever_the_replies(order: list[int], most: int, count: int) -> None:
    job = JOB.model_copy(update={"numerics": JOB.numerics.model_copy(update={"sequences": most})})
    rows = [{"question": f"Why {number}?", "answer": "1"} for number in range(count)]
    plan = [planned(GENERATE, rows), planned(GENERATE, rows, route=1, model="n")]

    def answer(route: int, request: dict[str, Any]) -> Any:
        return {**GENERATED, "generation": {**GENERATION, "text": f"{route} {request['messages'][1]['content']}"}}

    desk = Desk(answer, order)
    records = list(run(job, plan, desk))
    assert [(record.model, record.index) for record in records] == [(m, i) for m in "mn" for i in range(count)]
    for record in records:
        assert record.generation is not None
        assert record.generation.text == f"{'mn'.index(record.model)} {record.messages[1].content}"
    assert desk.most <= 2 * 2 * most


def test_what_is_under_way_is_bounded_by_what_a_model_runs_and_by_the_window() -> None:
    rows = [{"question": "Why?", "answer": "1"}] * 100
    job = JOB.model_copy(update={"numerics": JOB.numerics.model_copy(update={"sequences": 3})})
    slow_first = Desk(lambda route, request: GENERATED, [1] * 200)
    records = run(job, [planned(GENERATE, rows)], slow_first)
    next(records)
    assert slow_first.most == 6
    assert len(slow_first.asked) == AHEAD * 3


def test_what_the_desk_raises_passes_through() -> None:
    class Broken(Desk):
        def reply(self) -> tuple[int, int, Any]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(run(JOB, [planned(GENERATE)], Broken(lambda route, request: GENERATED)))


def test_an_error_of_the_model_worker_is_recorded() -> None:
    record = answered(GENERATE, {"error": {"code": "deadline", "message": "too late"}})
    assert record.error is not None
    assert (record.error.code, record.error.message) == ("deadline", "too late")
    assert (record.scores, record.generation) == ({}, None)


def test_an_error_beside_an_answer_is_an_error() -> None:
    record = answered(GENERATE, {**GENERATED, "error": {"code": "deadline", "message": "x"}})
    assert record.error is not None
    assert record.scores == {}


@pytest.mark.parametrize(
    "error",
    [
        None,
        "x",
        7,
        [],
        {},
        {"code": "x"},
        {"code": "No Name", "message": "m"},
        {"code": "x", "message": 5},
        {"code": "x", "message": None},
        {"code": "x", "message": "m" * 2001},
        {"code": "x", "message": "m", "surplus": 1},
    ],
)
def test_a_garbled_error_is_an_error(error: Any) -> None:
    record = answered(GENERATE, {"error": error})
    assert record.error is not None
    assert (record.scores, record.unscored) == ({}, {})


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"surplus": 1},
        {"prompt_tokens": None},
        {"prompt_tokens": [1]},
        {"generation": GENERATION},
        CHOSEN,
        *({"prompt_tokens": [1], "generation": value} for value in (None, [], "x", 5, True, {}, [GENERATION])),
        *(
            {"prompt_tokens": value, "generation": GENERATION}
            for value in (None, 5, "ab", ["a"], [None], [1.5], [True])
        ),
        {"prompt_tokens": {}, "generation": GENERATION},
        *(
            {"prompt_tokens": [1], "generation": {**GENERATION, **change}}
            for change in (
                {"tokens": None},
                {"tokens": 5},
                {"tokens": [[]]},
                {"tokens": {}},
                {"text": None},
                {"text": ["a"]},
                {"stop": "because"},
                {"stop": []},
                {"logprobs": None},
                {"logprobs": 5},
                {"logprobs": [0.5, 0.5]},
                {"logits_digest": "sha256:0"},
                {"logits_digest": None},
                {"surplus": 1},
            )
        ),
    ],
)
def test_a_garbled_completion_is_an_error(reply: dict[str, Any]) -> None:
    record = answered(GENERATE, reply)
    assert record.error is not None
    assert record.error.code == "reply"
    assert (record.scores, record.generation) == ({}, None)


@pytest.mark.parametrize(
    "logprobs", [["x", "y"], ["NaN", "-0.1"], ["", ""], ["-0.100000"], [], ["-0.100000"] * 3, ["0.1\n", "0.1"]]
)
def test_log_probabilities_are_numbers_one_for_each_token(logprobs: list[str]) -> None:
    record = answered(GENERATE, {"prompt_tokens": [1], "generation": {**GENERATION, "logprobs": logprobs}})
    assert record.error is not None


@pytest.mark.parametrize(
    "options",
    [
        None,
        5,
        "ab",
        {},
        [],
        [1, 2],
        [None, None],
        [[], []],
        [{}, {}],
        ["a", "b"],
        *([choice("a"), choice("b", **change)] for change in ({"tokens": None}, {"tokens": 5}, {"surplus": 1})),
        *(
            [choice("a"), choice("b", logprob)]
            for logprob in (
                "",
                "x",
                "NaN",
                "sNaN",
                "Infinity",
                "1e99999999999999999999",
                " -1 ",
                "\uff16",
                "-1_0",
                "0x1",
            )
        ),
        [choice("a"), choice("b", -1.0)],  # type: ignore[arg-type]
        [choice("a"), choice("b", None)],  # type: ignore[arg-type]
    ],
)
def test_garbled_options_are_an_error(options: Any) -> None:
    record = answered(CHOOSE, {"prompt_tokens": [1], "choices": options})
    assert record.error is not None
    assert record.error.code == "reply"
    assert (record.scores, record.choices) == ({}, None)


@pytest.mark.parametrize(
    "texts", [["b", "a"], ["b"], ["a"], ["a", "b", "c"], ["a", "a"], ["a", "B"], ["", "b"], ["x", "y"]]
)
def test_options_that_were_not_asked_are_an_error(texts: list[str]) -> None:
    record = answered(CHOOSE, {"prompt_tokens": [1], "choices": [choice(text) for text in texts]})
    assert record.error is not None
    assert record.scores == {}


KEYS = st.sampled_from(["prompt_tokens", "generation", "choices", "error", "tokens", "text", "stop", "code", "message"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "eos", "-1.000000", "a", "b", D, "x" * 3000])
)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8
)


@settings(max_examples=80)
@given(st.dictionaries(KEYS, JUNK, max_size=4), st.sampled_from([GENERATE, CHOOSE]))
@example({"error": None}, GENERATE)
@example({"prompt_tokens": [], "choices": [{"tokens": 1}]}, CHOOSE)
def test_any_reply_gives_one_record_without_scores(reply: dict[str, Any], spec: Suite) -> None:
    record = answered(spec, reply)
    assert record.error is not None
    assert record.scores == record.unscored == {}


@settings(max_examples=80)
@given(st.data())
def test_one_wrong_part_of_a_good_reply_is_an_error_or_a_score(data: st.DataObject) -> None:
    spec, reply = data.draw(st.sampled_from([(GENERATE, GENERATED), (CHOOSE, CHOSEN)]))
    reply = copy.deepcopy(reply)
    where: Any = reply
    while True:
        key = data.draw(st.sampled_from(list(where) if isinstance(where, dict) else list(range(len(where)))))
        if not isinstance(where[key], (dict, list)) or not where[key] or data.draw(st.booleans()):
            break
        where = where[key]
    where[key] = data.draw(JUNK)
    record = answered(spec, reply)
    assert (record.error is None) == bool(record.scores)


def test_failed_samples_are_counted() -> None:
    replies: list[dict[str, Any]] = [GENERATED, {"error": {"code": "deadline", "message": "late"}}]
    entry = planned(GENERATE, ROWS)
    assert entry.entry() == PlannedSuite(model="m", suite="arc", samples=2, scorers=("exact", "refusal"))
    records = list(run(JOB, [entry], Desk(lambda route, request: replies.pop(0))))
    (result,) = tabulate(JOB, [entry.entry()], records).suites
    assert (result.planned, result.run, result.failed) == (2, 1, 1)
