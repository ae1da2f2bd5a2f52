"""Suite files: which parts fit together, and what is refused before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance import job as files
from appliance import resources
from appliance.evals.suite import Suite
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported

GENERATE: dict[str, Any] = {
    "format": "vitrine/suite/v1",
    "name": "arc",
    "dataset": {"path": "rows.jsonl", "digest": digest_of(b""), "format": "jsonl"},
    "columns": {"id": "{{ id }}", "target": "{{ answer }}"},
    "prompt": {"user": "{{ question }}"},
    "scorers": [{"scorer": "exact"}],
}
CHOOSE = {
    **GENERATE,
    "columns": {"target": "{{ answer }}", "choices": "options"},
    "solver": "choose",
    "scorers": [{"scorer": "choice", "name": "accuracy"}],
}


def parse(value: Any) -> Suite:
    return files.parse(Suite, json.dumps(value).encode(), "suite")


def test_both_solvers() -> None:
    generate, choose = parse(GENERATE), parse(CHOOSE)
    assert (generate.solver, [spec.label for spec in generate.scorers]) == ("generate", ["exact"])
    assert (choose.solver, [spec.label for spec in choose.scorers]) == ("choose", ["accuracy"])
    assert generate.sampling is None


def test_one_scorer_under_two_names() -> None:
    specs = [{"scorer": "words", "words": [word], "name": word} for word in ("yes", "no")]
    assert [spec.label for spec in parse({**GENERATE, "scorers": specs}).scorers] == ["yes", "no"]


@pytest.mark.parametrize(
    ("base", "more", "problem"),
    [
        (GENERATE, {"surplus": 1}, "surplus"),
        (GENERATE, {"name": "A"}, "name"),
        (GENERATE, {"description": "x" * 2001}, "description"),
        (GENERATE, {"dataset": {**GENERATE["dataset"], "digest": "md5:0"}}, "digest"),
        (GENERATE, {"dataset": {**GENERATE["dataset"], "format": "parquet"}}, "format"),
        (GENERATE, {"dataset": {**GENERATE["dataset"], "path": ""}}, "path"),
        (GENERATE, {"dataset": {"path": "x", "format": "csv"}}, "digest"),
        (GENERATE, {"prompt": {}}, "user"),
        (GENERATE, {"prompt": {"user": 5}}, "user"),
        (GENERATE, {"solver": "agent"}, "solver"),
        (GENERATE, {"scorers": []}, "scorers"),
        (GENERATE, {"scorers": [{"scorer": "oracle"}]}, "scorer"),
        (GENERATE, {"scorers": [{"scorer": "exact"}, {"scorer": "exact"}]}, "unique"),
        (GENERATE, {"scorers": [{"scorer": "exact"}, {"scorer": "includes", "name": "exact"}]}, "unique"),
        (GENERATE, {"scorers": [{"scorer": "choice"}]}, "does not go with"),
        (CHOOSE, {"scorers": [{"scorer": "exact"}]}, "does not go with"),
        (CHOOSE, {"columns": {"target": "{{ answer }}"}}, "needs columns.choices"),
        (CHOOSE, {"columns": {"choices": "options"}}, "needs columns.target"),
        (GENERATE, {"scorers": [{"scorer": "words"}]}, "scorers.0.words.words"),
        (GENERATE, {"scorers": [{"scorer": "words", "words": []}]}, "scorers.0.words.words"),
        (GENERATE, {"scorers": [{"scorer": "exact", "words": ["x"]}]}, "scorers.0.exact.words"),
        (GENERATE, {"scorers": [{"scorer": "regex"}]}, "scorers.0.regex.pattern"),
        (GENERATE, {"scorers": [{"scorer": "regex", "pattern": "(?=a)"}]}, "not a pattern of RE2"),
        (GENERATE, {"scorers": [{"scorer": "regex", "pattern": "a" * 1001}]}, "pattern"),
        (GENERATE, {"scorers": [{"scorer": "regex", "pattern": "((((a{99}){99}){99}){99})"}]}, "not a pattern of RE2"),
        (GENERATE, {"scorers": [{"scorer": "regex", "pattern": "(a)", "group": 2}]}, "group 2 is asked for"),
        (GENERATE, {"scorers": [{"scorer": "json-schema", "json_schema": {"typ": "null"}}]}, "keyword 'typ'"),
        (GENERATE, {"scorers": [{"scorer": "refusal", "method": "rules", "beginnings": ["No"]}]}, "no beginnings"),
        (GENERATE, {"scorers": [{"scorer": "truthfulqa", "metric": "mc1", "labels": "x"}]}, "does not go with"),
        (CHOOSE, {"scorers": [{"scorer": "truthfulqa", "metric": "mc3", "labels": "x"}]}, "metric"),
        (CHOOSE, {"scorers": [{"scorer": "ifeval"}]}, "does not go with"),
        (GENERATE, {"scorers": [{"scorer": "exact", "pass_at": [0]}]}, "pass_at"),
        (GENERATE, {"scorers": [{"scorer": "exact", "pass_at": [2, 2]}]}, "unique"),
        (GENERATE, {"stop": ["x"] * 17}, "stop"),
        (GENERATE, {"sampling": {"temperature": "hot"}}, "temperature"),
        (GENERATE, {"columns": {"target": "1", "choices": "options"}}, "'generate' takes none"),
        (CHOOSE, {"stop": ["x"]}, "no sampling and no stop"),
        (CHOOSE, {"sampling": {}}, "no sampling and no stop"),
        (CHOOSE, {"grammar": 'root ::= "a"'}, "need a completion"),
        (CHOOSE, {"json_schema": {"type": "null"}}, "need a completion"),
        (GENERATE, {"grammar": 'root ::= "a"', "json_schema": {"type": "null"}}, "found both"),
        (GENERATE, {"grammar": ""}, "rule 'root'"),
        (GENERATE, {"grammar": "root ::= nobody"}, "nobody"),
        (GENERATE, {"grammar": 'root ::= root "a" | "b"'}, "left recursion"),
        (GENERATE, {"grammar": "x" * 65537}, "grammar"),
        (GENERATE, {"json_schema": {"type": "string", "pattern": "a"}}, "pattern"),
        (GENERATE, {"json_schema": {"$ref": "https://example.org/schema.json"}}, "into this schema"),
        (GENERATE, {"json_schema": {"const": 0.5}}, "without fractions"),
        (GENERATE, {"json_schema": [1]}, "json_schema"),
        *(
            (GENERATE, {"columns": {}, "scorers": [{"scorer": name}]}, "needs columns.target")
            for name in ("exact", "includes", "numeric")
        ),
    ],
)
def test_what_does_not_fit_together(base: dict[str, Any], more: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        parse({**base, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"scorers": [{"scorer": "words", "words": [""]}]},
        {"scorers": [{"scorer": "words", "words": ["yes", ""]}]},
        {"scorers": [{"scorer": "refusal", "beginnings": [""]}]},
        {"stop": [""]},
        {"stop": ["\n\n", ""]},
    ],
    ids=["a word", "one of the words", "a refusal", "a stop", "one of the stops"],
)
def test_an_empty_text_that_is_in_every_reply_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        parse({**GENERATE, **more})


def test_a_grammar_in_either_form() -> None:
    assert parse(GENERATE).constraint is None
    assert parse({**GENERATE, "grammar": 'root ::= "a"'}).constraint == 'root ::= "a"'
    suite = parse({**GENERATE, "json_schema": {"enum": [None, "a"]}})
    assert suite.constraint is not None
    assert suite.constraint.startswith('root ::= "null" | ')
    again = parse(suite.model_dump(mode="json", exclude_none=True))
    assert again.constraint == suite.constraint


def test_another_version_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="vitrine/suite/v1"):
        parse({**GENERATE, "format": "vitrine/suite/v2"})


def test_the_suites_of_the_project_are_read() -> None:
    folders = (resources.demo() / "suites", Path(__file__).parents[2] / "examples" / "suites")
    paths = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    assert len(paths) >= 10
    suites = [files.parse(Suite, path.read_bytes(), path.name) for path in paths]
    assert len({suite.name for suite in suites}) == len(paths)
