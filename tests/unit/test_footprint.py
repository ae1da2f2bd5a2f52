"""What memory a run takes: from the header, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance import footprint, resources
from appliance.footprint import REST_BYTES, WORKER_BYTES, Footprint, ModelFile
from appliance.runtime import context, scheduler
from attest.errors import EnvironmentProblem
from attest.job import Job

GIB = 1 << 30


def job(schedule: str = "concurrent", tokens: int = 256, kv: str = "f16") -> Job:
    """A job on two models, with eight sequences."""
    return Job.model_validate_json(
        '{"format":"vitrine/job/v1","name":"x","models":[{"id":"a","path":"x"},{"id":"b","path":"y"}],'
        f'"suites":[{{"path":"s"}}],"schedule":"{schedule}","limits":{{"context_tokens":{tokens}}},'
        f'"numerics":{{"sequences":8,"kv":"{kv}"}}}}'
    )


@pytest.fixture(scope="module")
def organism() -> ModelFile:
    """The embedded model: 27 MiB or so, a small context."""
    path = resources.inside("demo/organism-q8_0.gguf")
    found = footprint.read([path], path.stat().st_size)
    assert found is not None
    return found


@pytest.mark.parametrize(("kv", "bytes_each"), [("f32", 4), ("f16", 2), ("q8_0", 34 / 32)])
def test_the_cache_follows_from_the_header(organism: ModelFile, kv: str, bytes_each: float) -> None:
    read = organism.header.metadata.__getitem__
    name = organism.header.architecture
    width = int(read(f"{name}.embedding_length")) // int(read(f"{name}.attention.head_count"))
    values = 2 * width * int(read(f"{name}.attention.head_count_kv")) * int(read(f"{name}.block_count"))
    assert footprint.cache_bytes(job(kv=kv), organism.header) == int(8 * 256 * values * bytes_each)


def test_no_more_context_is_reckoned_than_the_model_has(organism: ModelFile) -> None:
    trained = organism.header.metadata[f"{organism.header.architecture}.context_length"]
    most = footprint.cache_bytes(job(tokens=int(trained)), organism.header)
    assert footprint.cache_bytes(job(tokens=1 << 20), organism.header) == most


def test_one_after_another_takes_one_model(organism: ModelFile) -> None:
    models = {"a": organism, "b": organism}
    at_once, in_turn = footprint.of(job(), models), footprint.of(job("sequential"), models)
    each = organism.size_bytes + in_turn.caches["a"] + footprint.worker_bytes(organism.header)
    assert (in_turn.bytes, at_once.bytes) == (each + REST_BYTES, 2 * each + REST_BYTES)


def test_a_worker_has_room_for_the_logits_of_a_batch(organism: ModelFile) -> None:
    """What was measured is below it: 47 MB with 1,024 tokens, 118 MB with 32,768."""
    vocabulary = int(organism.header.metadata["llama.vocab_size"])
    assert footprint.worker_bytes(organism.header) == WORKER_BYTES + 2 * 4 * 512 * vocabulary
    tokens = organism.header.arrays["tokenizer.ggml.tokens"]._replace(length=150_000)
    large = replace(organism.header, arrays={"tokenizer.ggml.tokens": tokens})
    assert footprint.worker_bytes(large) == WORKER_BYTES + 4 * 512 * 150_000 + scheduler.ROWS_BYTES
    assert (footprint.BATCH_TOKENS, footprint.ROWS_BYTES) == (context.BATCH_TOKENS, scheduler.ROWS_BYTES)


def test_the_largest_of_them_counts(organism: ModelFile) -> None:
    """A model whose file is larger than another's file and cache together."""
    models = {"a": organism, "b": ModelFile(9 * GIB, organism.header)}
    assert footprint.of(job("sequential"), models).together == {"b"}
    assert footprint.of(job(), models).together == {"a", "b"}


def test_too_little_is_refused_with_the_numbers_and_what_would_help() -> None:
    wanted = Footprint(
        {"a": GIB, "b": 3 * GIB}, {"a": GIB, "b": 2 * GIB}, {"a": 200 << 20, "b": 300 << 20}, frozenset("ab")
    )
    footprint.check(job(), wanted, wanted.bytes)
    with pytest.raises(EnvironmentProblem) as caught:
        footprint.check(job(), wanted, wanted.bytes - 1)
    said = str(caught.value)
    assert all(
        word in said
        for word in (
            "a 1024, b 3072",
            "a 1024, b 2048",
            "2 model workers 500",
            "schedule: sequential",
            "context_tokens (256)",
        )
    )
    with pytest.raises(EnvironmentProblem) as caught:
        footprint.check(job("sequential"), wanted, 0)
    assert "schedule" not in str(caught.value)


def test_a_file_that_is_no_model_is_left_to_the_boot(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "x").write_bytes(b"no model")
    assert [footprint.read([tmp_path / name], 1) for name in ("none", "empty", "x")] == [None] * 3


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 1000 * 1024), ("max", 1000 * 1024), ("600000", 600000 - 50000 + 20000), ("1", 0)]
)
def test_a_control_group_bounds_what_the_host_has(tmp_path: Path, limit: str | None, expected: int) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000 kB\n")
    (tmp_path / "self" / "cgroup").write_text("0::/outer/inner\n")
    group = tmp_path / "groups" / "outer"
    (group / "inner").mkdir(parents=True)
    if limit is not None:
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text("50000\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 20000\n")
    assert footprint.available(tmp_path, tmp_path / "groups") == expected
