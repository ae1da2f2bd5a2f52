"""A model in a sealed worker that is asked directly."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import resources
from appliance.bridges.session import Session, Settings, choose, complete, open_session
from appliance.relay import WorkerFailure
from attest.digest import digest_of
from attest.errors import VitrineError
from attest.job import Limits, Numerics, Sampling

MODEL = resources.demo() / "organism-q8_0.gguf"
SETTINGS = Settings(limits=Limits(context_tokens=128, memory_bytes=1 << 30), seed=3)


@pytest.fixture(scope="module")
def session(engine: Path) -> Iterator[Session]:
    with open_session(MODEL, engine=engine, settings=SETTINGS) as opened:
        yield opened


def test_it_says_what_was_pinned_and_how_it_is_sealed(session: Session) -> None:
    assert session.model.digest == digest_of(MODEL.read_bytes())
    assert {"engine", "engine-record", "model", "policy"} == {item.kind for item in session.pins}
    assert session.seal.worker == "model.target"
    assert session.seal.violations == []


def test_replies_do_not_depend_on_what_is_asked_beside_them(session: Session, engine: Path) -> None:
    asks = [choose(f"{number} + 2 =", [" 4", " 5", " more than that"]) for number in range(20)]
    drawn = Sampling(temperature="0.9", max_tokens=8)
    asks += [complete(f"Question {number}:", drawn) for number in range(20)]
    streams = [str(number) for number in range(40)]
    together = session.ask_all(asks, streams)
    assert [session.submit(ask, stream).result() for ask, stream in zip(asks, streams, strict=True)] == together
    with open_session(
        MODEL, engine=engine, settings=SETTINGS.model_copy(update={"numerics": Numerics(sequences=1)})
    ) as alone:
        assert alone.ask_all(asks, streams) == together
    assert len({reply.answer.text for reply in together[20:]}) > 10


def test_the_name_of_a_request_decides_what_is_drawn(session: Session) -> None:
    ask = complete("What", Sampling(temperature="1", max_tokens=12))
    texts = [reply.answer.text for reply in session.ask_all([ask] * 3, ["a", "b", "a"])]
    assert texts[0] == texts[2] != texts[1]


def test_greedy_is_what_greedy_decoding_gives(session: Session) -> None:
    reply = session.submit(complete("What is", Sampling(max_tokens=1))).result()
    likeliest = reply.answer.text
    other = " x" if likeliest != " x" else " y"
    assert session.submit(choose("What is", [other, likeliest])).result().greedy == (False, True)


def test_a_text_without_a_beginning_comes_after_the_first_token(session: Session) -> None:
    (reply,) = session.ask_all([choose("", ["What is this?"])])
    assert len(reply.answer.prompt_tokens) == 1
    assert reply.answer.error is None


def test_a_request_that_cannot_be_served_is_answered_and_the_next_one_is_served(session: Session) -> None:
    long, huge, fine = session.ask_all([choose("a " * 500, ["b"]), choose("a" * (9 << 20), ["b"]), choose("a", ["b"])])
    assert long.answer.error is not None
    assert long.answer.error.code == "prompt-too-long"
    assert huge.answer.error is not None
    assert huge.answer.error.code == "size"
    assert fine.answer.error is None


def test_a_worker_that_is_gone_fails_what_was_asked_and_what_is_asked(engine: Path) -> None:
    with open_session(MODEL, engine=engine, settings=SETTINGS) as session:
        os.killpg(session._station.worker.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerFailure):
            session.submit(choose("a", ["b"])).result(60)
        with pytest.raises(WorkerFailure):
            session.submit(choose("a", ["b"])).result(60)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path, engine: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(VitrineError), open_session(tmp_path / "model.gguf", engine=engine):
        pass
