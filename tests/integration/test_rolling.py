"""Texts longer than the context: a sealed worker's likelihoods are those of lm-eval's own calculation.

The reference is what lm-eval's model for transformers does: each of its windows alone in an empty context, the
log-softmax of all rows at once, the scored tokens' entries added up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.bridges.session import Session, Settings, open_session, roll
from appliance.runtime import binding
from appliance.runtime.context import Context, Piece
from appliance.runtime.model import Model
from attest.job import Limits, Numerics

pytestmark = pytest.mark.engine
MOST = 96
"""Tokens of the context."""


def theirs(tokens: list[int], first: int) -> Iterator[tuple[list[int], list[int]]]:
    """The windows by lm-eval 0.4.13: `get_rolling_token_windows`, and `make_disjoint_window` of each."""
    head = min(MOST, len(tokens))
    pairs, predicted = [([first, *tokens[: head - 1]], tokens[:head])], head
    while predicted < len(tokens):
        size = min(len(tokens) - predicted, MOST)
        end = predicted + size
        pairs.append((tokens[end - MOST - 1 : end - 1], tokens[end - size : end]))
        predicted += size
    for before, scored in pairs:
        yield before[: len(before) - (len(scored) - 1)], scored


@pytest.fixture(scope="module")
def text(demo: Path) -> str:
    """Some 1,000 tokens of the demo's own questions."""
    return (demo / "data" / "facts.jsonl").read_text()[:4000]


@pytest.fixture(scope="module")
def session(engine: Path, demo: Path) -> Iterator[Session]:
    limits = Limits(context_tokens=MOST, memory_bytes=1 << 30)
    settings = Settings(limits=limits, numerics=Numerics(sequences=3))
    with open_session(demo / "organism-q8_0.gguf", engine=engine, settings=settings) as opened:
        yield opened


def test_likelihoods_of_long_texts_are_lm_evals(session: Session, engine: Path, demo: Path, text: str) -> None:
    library = binding.load(os.open(engine / "libllama.so", os.O_RDONLY))
    library.llama_backend_init()
    model = Model(library, os.open(demo / "organism-q8_0.gguf", os.O_RDONLY))
    whole = model.tokenize(text, special=False, add_bos=False)
    assert len(whole) > 8 * MOST
    # Whole windows alone, one token over, and one that fits; texts whose tokens are the beginning of the text's.
    texts = [text, *(text[: len(text) * part // 20] for part in (1, 2, 3, 7, 13))]
    replies = session.ask_all(roll(one) for one in texts)
    context = Context(model, slots=2, slot_tokens=MOST, threads=1)
    for one, reply in zip(texts, replies, strict=True):
        tokens = model.tokenize(one, special=False, add_bos=False)
        total = 0.0
        for before, scored in theirs(tokens, model.first):
            context.clear()
            (rows,) = context.decode([Piece(0, 0, [*before, *scored][:-1], len(before) - 1)])
            logits = np.stack([np.array(row) for row in rows]).astype(np.float64)
            highest = logits.max(axis=1, keepdims=True)
            likelihoods = logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
            total += float(likelihoods[np.arange(len(scored)), scored].sum())
        (choice,) = reply.answer.choices or ()
        assert list(choice.tokens) == tokens
        assert abs(float(choice.logprob) - total) < 2e-6, len(tokens)
    context.close()


def test_a_text_has_the_same_likelihood_whatever_is_asked_beside_it(session: Session, text: str) -> None:
    together = session.ask_all([roll(text), roll(text[500:]), roll(text)])
    assert together[0] == together[2] == session.submit(roll(text)).result()


def test_a_text_of_nothing_is_refused(session: Session) -> None:
    error = session.submit(roll("")).result().answer.error
    assert error is not None
    assert error.code == "empty-text"
