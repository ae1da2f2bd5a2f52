"""Job files: the strict YAML that they are read from, what a job may say, and where its paths may lead."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance import job as files
from appliance import resources
from attest import canonical
from attest import job as jobs
from attest.digest import digest_of
from attest.errors import MalformedInput, Unsupported, VitrineError
from attest.job import Job

MINIMAL: dict[str, Any] = {
    "format": "vitrine/job/v1",
    "name": "demo",
    "models": [{"id": "m", "path": "m.gguf"}],
    "suites": [{"path": "s.yaml"}],
}
SUITE: dict[str, Any] = {
    "format": "vitrine/suite/v1",
    "name": "arc",
    "dataset": {"path": "rows.csv", "digest": digest_of(b""), "format": "csv"},
    "prompt": {"user": "{{ question }}"},
    "scorers": [{"scorer": "refusal"}],
}
CLAIM = {"suite": "arc", "model": "m", "metric": "refusal", "comparator": ">=", "threshold": "0.5"}
TEXT = """
format: vitrine/job/v1
name: {name}
models: [{{id: m, path: m.gguf}}]
suites: [{{path: s.yaml}}]
"""


def parse(text: str) -> Job:
    return files.parse(Job, text.encode(), "job")


def job(**more: Any) -> Job:
    return canonical.validate(Job, {**MINIMAL, **more}, "job")


def write(folder: Path, files_: dict[str, dict[str, Any]] | None = None, **more: Any) -> Path:
    """A job and its suites as files; the job's path."""
    for name, suite in (files_ or {"s.yaml": SUITE}).items():
        (folder / name).write_text(json.dumps(suite))
    (folder / "rows.csv").write_text("question\nwhy\n")
    (folder / "job.yaml").write_text(json.dumps({**MINIMAL, **more}))
    return folder / "job.yaml"


# -- YAML --------------------------------------------------------------------------------------------------------------


def test_yaml_and_json_say_the_same() -> None:
    found = parse(TEXT.format(name="demo") + "sampling: {temperature: '0.7'}\n# a comment\n")
    assert found == job(sampling={"temperature": "0.7"})
    assert parse(json.dumps(MINIMAL)) == job()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "a mapping, found NoneType"),
        ("[]", "a mapping, found list"),
        ("just text", "a mapping, found str"),
        ("a: 1\na: 2", "unique keys, found 'a' twice"),
        ("a: {b: 1, c: 2, b: 3}", "unique keys"),
        ('a: 1\n"a": 2', "unique keys"),
        ("1: 2", "text as a key, found 1"),
        ("true: 2", "text as a key, found True"),
        ("? [a]\n: 2", "text as a key"),
        ("~: 2", "text as a key, found None"),
        ("a: 1\nb: *x", "line 2: .*aliases"),
        ("a: &x 1\nb: *x", "anchors"),
        ("a: &x [*x]", "anchors"),
        ("a: 1e999", "JSON"),
        ("a: [-1e999]", "JSON"),
        ("a: !!set {x}", None),
        ("a: !!binary aGk=", None),
        ("a: !!timestamp 2024-01-01", None),
        ("a: !local x", None),
        ("a: !!python/object/apply:os.system [id]", None),
        ("a: !!python/name:os.system", None),
        ("--- {}\n--- {}", "single document"),
        ("a: [", None),
        ("a: 'x", None),
        ("\ta: 1", None),
        ("a: \x07", None),
        ('a: "\\ud800"', "surrogate"),
        ("a: 9007199254740992", "2\\^53"),
        ("a: " + "9" * 5000, None),
        ("[" * 4_000, None),
        ("a: " + "{a: " * 5_000, None),
        ("- " * 4_000, None),
    ],
)
def test_yaml_with_surprises_is_malformed(text: str, problem: str | None) -> None:
    with pytest.raises(MalformedInput, match=problem):
        parse(text)


@pytest.mark.parametrize("data", [b"\xff", TEXT.encode("utf-16"), b"a: \xed\xa0\x80", b"a: \xc3"])
def test_yaml_in_other_encodings_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        files.parse(Job, data, "job")


def test_yaml_is_bounded() -> None:
    with pytest.raises(MalformedInput, match="bytes"):
        files.parse(Job, b"#" * (files.MAX_BYTES + 1), "job")


@pytest.mark.parametrize(
    "value",
    [
        "!!map [a]",
        "!!map {a}",
        "!!bool maybe",
        '!!int ""',
        "!!int x",
        "!!float x",
        "!!timestamp x",
        "!!timestamp 2024-99-99",
        "!!binary \u00e9",
        "!!omap x",
        "!!omap [x]",
        "!!pairs [{a: 1, b: 2}]",
        "!!set x",
        "!!seq {a: 1}",
        "!!value =",
        "!!merge <<",
        "1" + ":00" * 400 + ":00.5",
        "2024-99-99",
        "!!str [a]",
        "!<tag:yaml.org,2002:bool> maybe",
        "! [x]",
    ],
)
def test_a_value_that_its_tag_cannot_hold_is_malformed(value: str) -> None:
    with pytest.raises(MalformedInput):
        parse(TEXT.format(name="demo") + f"seed: {value}\n")


def test_a_redefined_tag_handle_is_malformed() -> None:
    with pytest.raises(MalformedInput):
        parse("%TAG ! tag:yaml.org,2002:\n---" + TEXT.format(name="!bool maybe"))


@pytest.mark.parametrize(
    "value", ["017", "0x1F", "0b11", "1_000", "1:30", "190:20:30", "+5", ".inf", "-.inf", ".nan", "1e999"]
)
def test_a_number_that_json_has_not_is_malformed(value: str) -> None:
    with pytest.raises(MalformedInput):
        parse(TEXT.format(name="demo") + f"seed: {value}\n")


@pytest.mark.parametrize("value", ["&anchor demo", "!!str demo", "! demo"])
def test_anchors_and_tags_are_malformed(value: str) -> None:
    with pytest.raises(MalformedInput):
        parse(TEXT.format(name=value))


@pytest.mark.parametrize("value", ["no", "on", "y", "2024-01-01", "017", "0x1f", "1_000", "1e"])
def test_what_only_older_yaml_takes_for_something_else_is_text(value: str) -> None:
    assert parse(TEXT.format(name=value)).name == value


@pytest.mark.parametrize("value", ["true", "false", "~", "5", "-5", "1.5", "1e5", "null", ""])
def test_what_json_takes_for_something_else_than_text_is_no_name(value: str) -> None:
    with pytest.raises(MalformedInput, match="name"):
        parse(TEXT.format(name=value))


def test_a_merge_key_is_a_key_like_any_other() -> None:
    with pytest.raises(MalformedInput, match="<<"):
        parse(TEXT.format(name="demo") + "<<: {seed: 1}\n")


def test_many_keys_take_no_more_than_linear_time() -> None:
    text = "{" + ",".join(f"k{number}: 1" for number in range(8_000)) + "}"
    started = time.process_time()
    yaml.load(text, Loader=yaml.SafeLoader)
    linear = time.process_time() - started
    started = time.process_time()
    with pytest.raises(MalformedInput):
        parse(text)
    assert time.process_time() - started < 2.5 * linear


@settings(max_examples=150)
@given(st.text("ab:-[]{}&*!|>%@`\"'#,? \n\t019.~<=_\u00e9\U0001f600", max_size=25))
@example("!!bool x")
@example("{? , }")
def test_any_text_raises_only_our_errors(text: str) -> None:
    for whole in (text, TEXT.format(name="demo") + "seed: " + text):
        try:
            parse(whole)
        except VitrineError as error:
            assert isinstance(error, MalformedInput)


# -- what a job may say ------------------------------------------------------------------------------------------------


def test_another_version_is_unsupported() -> None:
    for name in ("vitrine/job/v2", "vitrine/suite/v1", ""):
        with pytest.raises(Unsupported, match="vitrine/job/v1"):
            parse(json.dumps({**MINIMAL, "format": name}))
    with pytest.raises(Unsupported):
        parse("format: vitrine/job/v9\nthings: [this, release, does, not, know]")
    for value in (1, None, ["vitrine/job/v1"], {}):
        with pytest.raises(MalformedInput, match="format"):
            parse(json.dumps({**MINIMAL, "format": value}))
    with pytest.raises(MalformedInput, match="format"):
        parse(json.dumps({key: value for key, value in MINIMAL.items() if key != "format"}))


def test_defaults_are_written_out_and_count() -> None:
    plain = job()
    assert (plain.seed, plain.nonce, plain.claims) == (0, None, ())
    assert (plain.sampling.temperature, plain.sampling.max_tokens, plain.numerics.threads) == ("0", 256, 1)
    assert jobs.digest(plain) == jobs.digest(job(seed=0, sampling={"top_p": "1"}))
    assert jobs.digest(plain) != jobs.digest(job(seed=1))
    assert jobs.digest(plain) == digest_of(jobs.dump(plain))
    assert canonical.parse(Job, jobs.dump(plain), "job") == plain


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"surplus": 1}, "surplus"),
        ({"name": ""}, "name"),
        ({"name": "Demo"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": "-a"}, "name"),
        ({"name": "a."}, "name"),
        ({"name": "../a"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "\u00e9"}, "name"),
        ({"nonce": "00" * 7}, "nonce"),
        ({"nonce": "00" * 65}, "nonce"),
        ({"nonce": "0" * 17}, "nonce"),
        ({"nonce": "AB" * 8}, "nonce"),
        ({"nonce": "ab" * 8 + "\n"}, "nonce"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"seed": True}, "seed"),
        ({"models": []}, "models"),
        ({"models": [{"id": str(number), "path": "x"} for number in range(17)]}, "models"),
        ({"models": [{"id": "m", "path": "a"}, {"id": "m", "path": "b"}]}, "unique"),
        ({"models": [{"id": "m", "path": ""}]}, "path"),
        ({"models": [{"id": "m", "path": "x" * 401}]}, "path"),
        ({"suites": []}, "suites"),
        ({"suites": [{"path": "a"}, {"path": "a"}]}, "twice"),
        ({"suites": [{"path": "a", "limit": 0}]}, "limit"),
        ({"suites": [{"path": "a", "models": []}]}, "models"),
        ({"suites": [{"path": "a", "models": ["n"]}]}, "\\['n'\\] are named"),
        ({"claims": [{**CLAIM, "model": "n"}]}, "\\['n'\\] are named"),
        ({"claims": [{**CLAIM, "comparator": "!="}]}, "comparator"),
        ({"claims": [{**CLAIM, "threshold": 0.5}]}, "threshold"),
        ({"claims": [{**CLAIM, "threshold": "1e3"}]}, "threshold"),
        ({"claims": [{**CLAIM, "threshold": "NaN"}]}, "threshold"),
        ({"claims": [{**CLAIM, "threshold": ".5"}]}, "threshold"),
        ({"claims": [{**CLAIM, "threshold": "\u0661"}]}, "threshold"),
        ({"sampling": {"temperature": "-0.1"}}, "temperature"),
        ({"sampling": {"temperature": 0.7}}, "temperature"),
        ({"sampling": {"temperature": "Infinity"}}, "temperature"),
        ({"sampling": {"top_k": -1}}, "top_k"),
        ({"sampling": {"top_p": "1.1"}}, "top_p"),
        ({"sampling": {"top_p": "-0.1"}}, "top_p"),
        ({"sampling": {"min_p": "2"}}, "min_p"),
        ({"sampling": {"max_tokens": 0}}, "max_tokens"),
        ({"limits": {"context_tokens": 1}}, "context_tokens"),
        ({"limits": {"sample_timeout_s": 0}}, "sample_timeout_s"),
        ({"limits": {"memory_bytes": 1}}, "memory_bytes"),
        ({"numerics": {"threads": 0}}, "threads"),
        ({"numerics": {"profile": "Fast!"}}, "profile"),
    ],
)
def test_what_a_job_may_not_say(more: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        parse(json.dumps({**MINIMAL, **more}))


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_job_with_its_suites(tmp_path: Path) -> None:
    loaded = files.load(write(tmp_path, claims=[CLAIM]))
    (suite,) = files.load_suites(loaded)
    assert loaded.folder == tmp_path
    assert (suite.suite.name, suite.path) == ("arc", tmp_path / "s.yaml")
    assert suite.datasets == {"arc": tmp_path / "rows.csv"}


def test_a_data_set_is_looked_for_beside_the_suite_first(tmp_path: Path) -> None:
    loaded = files.load(write(tmp_path))
    other = tmp_path / "data"
    other.mkdir()
    (other / "rows.csv").write_text("question\nother\n")
    assert files.load_suites(loaded, (other,))[0].datasets == {"arc": tmp_path / "rows.csv"}
    (tmp_path / "rows.csv").unlink()
    assert files.load_suites(loaded, (other,))[0].datasets == {"arc": other / "rows.csv"}
    (other / "rows.csv").unlink()
    with pytest.raises(MalformedInput, match="--data"):
        files.load_suites(loaded, (other,))


def test_claims_have_to_be_about_what_a_suite_measures(tmp_path: Path) -> None:
    for claim in ({**CLAIM, "metric": "accuracy"}, {**CLAIM, "suite": "mmlu"}):
        with pytest.raises(MalformedInput, match="a claim is about"):
            files.load_suites(files.load(write(tmp_path, claims=[claim])))


def test_a_claim_about_a_model_that_the_suite_is_not_run_on_is_refused(tmp_path: Path) -> None:
    models = [{"id": "m", "path": "m.gguf"}, {"id": "n", "path": "n.gguf"}]
    path = write(tmp_path, models=models, suites=[{"path": "s.yaml", "models": ["n"]}], claims=[CLAIM])
    with pytest.raises(MalformedInput):
        files.load_suites(files.load(path))


def test_two_suites_of_one_name_are_refused(tmp_path: Path) -> None:
    same = {"s.yaml": SUITE, "t.yaml": SUITE}
    with pytest.raises(MalformedInput, match="different names"):
        files.load_suites(files.load(write(tmp_path, same, suites=[{"path": "s.yaml"}, {"path": "t.yaml"}])))
    with pytest.raises(MalformedInput, match="different names"):
        files.load_suites(files.load(write(tmp_path, suites=[{"path": "s.yaml"}, {"path": "./s.yaml"}])))


@pytest.mark.parametrize("name", ["none.yaml", ".", "job.yaml/x", "a" * 300, "a\0b"])
def test_a_job_that_cannot_be_opened_is_malformed(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    with pytest.raises(MalformedInput):
        files.load(tmp_path / name)


@pytest.mark.parametrize("path", ["none.yaml", ".", "..", "s.yaml/x", "a" * 300, "a\0b", "resource:demo/a\0b", "~/x"])
def test_a_suite_that_cannot_be_opened_is_malformed(tmp_path: Path, path: str) -> None:
    with pytest.raises(MalformedInput):
        files.load_suites(files.load(write(tmp_path, suites=[{"path": path}])))


@pytest.mark.parametrize("path", ["none.csv", "s.yaml/x", "a" * 300, "a\0b", "resource:demo/data/addition.jsonl"])
def test_a_data_set_that_cannot_be_found_is_malformed(tmp_path: Path, path: str) -> None:
    suite = {**SUITE, "dataset": {**SUITE["dataset"], "path": path}}
    with pytest.raises(MalformedInput):
        files.load_suites(files.load(write(tmp_path, {"s.yaml": suite})))


def test_the_embedded_job_and_the_examples_are_read() -> None:
    root = Path(__file__).parents[2]
    paths = [resources.demo() / "job.yaml", *sorted((root / "examples" / "jobs").glob("*.yaml"))]
    assert len(paths) >= 3
    for path in paths:
        assert files.load(path).job.suites
    assert files.load_suites(files.load(paths[0]))
