"""Grammars on a real vocabulary and a real model: masks against llama.cpp's own, and completions that are valid."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from appliance.runtime import binding
from appliance.runtime.context import Context
from appliance.runtime.grammar import Constraint, Grammars, Pieces
from appliance.runtime.model import Model
from appliance.runtime.request import Deadline, Generate
from appliance.runtime.scheduler import Scheduler
from appliance.runtime.schema import to_gbnf
from attest import canonical
from attest.job import Sampling
from attest.sample import Generation, Message

pytestmark = pytest.mark.engine

JUDGE = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "maxLength": 12},
        "labels": {"type": "array", "items": {"enum": ["safe", "unsafe", "\u00e9\\\n"]}, "maxItems": 2},
        "score": {"type": "integer", "minimum": 1, "maximum": 10},
    },
    "required": ["reason", "score"],
}
CHESS = """
root ::= (move " "){1,4} move
move ::= (pawn | piece | "O-O" "-O"?) [+#]?
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
piece ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
"""
JSON = to_gbnf(True)
ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


@pytest.fixture(scope="module")
def library(engine: Path) -> Any:
    found = binding.load(os.open(engine / "libllama.so", os.O_RDONLY))
    found.llama_backend_init()
    return found


@pytest.fixture(scope="module")
def model(library: Any, demo: Path) -> Model:
    return Model(library, os.open(demo / "organism-q8_0.gguf", os.O_RDONLY))


def of_llama(library: Any, sampler: Any, count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """What llama.cpp's own matcher allows."""
    entries = np.zeros(count, ENTRY)
    entries["id"] = np.arange(count)
    pointer = entries.ctypes.data_as(ctypes.POINTER(library.llama_token_data))
    array = library.llama_token_data_array(data=pointer, size=count, selected=-1, sorted=False)
    library.llama_sampler_apply(sampler, ctypes.byref(array))
    return np.isfinite(entries["logit"])


@pytest.fixture(params=["organism", "ggml-vocab-gpt-2", "ggml-vocab-falcon"])
def vocab(request: pytest.FixtureRequest, library: Any, model: Model) -> Iterator[Any]:
    if request.param == "organism":
        yield model.vocab
        return
    data: Path = request.getfixturevalue("data")
    params = library.llama_model_default_params()
    params.vocab_only = True
    loaded = library.llama_model_load_from_file(str(data / "gguf" / "vocab" / f"{request.param}.gguf").encode(), params)
    assert loaded
    yield library.llama_model_get_vocab(loaded)
    library.llama_model_free(loaded)


@pytest.mark.parametrize("text", [JSON, CHESS, to_gbnf(JUDGE)], ids=["json", "chess", "judge"])
def test_masks_are_those_of_llama_cpp(library: Any, vocab: Any, text: str) -> None:
    """On every token that is whole UTF-8 text. Of parts of characters, llama.cpp allows some that nothing completes."""
    pieces, source, compared = Pieces.read(library, vocab), random.Random(text), 0
    whole = np.array([is_whole(pieces.text(token)) for token in range(len(pieces.lengths))]) | pieces.ends
    logits = np.zeros(len(whole), np.float32)
    for _ in range(4):
        state = Grammars(pieces).constraint(text)
        theirs = library.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        assert theirs
        for _ in range(40):
            mine, other = np.isfinite(state.mask(logits)), of_llama(library, theirs, len(whole))
            assert (mine[whole] == other[whole]).all()
            assert not (mine & ~other).any()
            compared += 1
            options = np.flatnonzero(mine & whole & ~pieces.ends)
            if not len(options):
                break
            token = int(source.choice(options.tolist()))
            state.accept(token)
            library.llama_sampler_accept(theirs, token)
        library.llama_sampler_free(theirs)
    assert compared > 8


def is_whole(text: bytes) -> bool:
    try:
        return bool(text.decode())
    except UnicodeDecodeError:
        return False


def complete(model: Model, jobs: list[tuple[str, Sampling, Constraint | None]], slots: int) -> list[Generation]:
    """One completion for each prompt, all at once."""
    scheduler = Scheduler(Context(model, slots=slots, slot_tokens=256, threads=1))
    requests = []
    for number, (prompt, settings, constraint) in enumerate(jobs):
        tokens = model.prompt([Message(role="user", content=prompt)])
        requests.append(
            Generate(model, tokens, settings, (), 7, f"s/{number}", 256, Deadline(60), constraint=constraint)
        )
        scheduler.submit(requests[-1])
    while scheduler.busy:
        for finished in scheduler.step():
            assert finished.error is None
    return [request.reply() for request in requests]


PROMPTS = ["What is 12 plus 30?", "Who are you?", "Say something.", "Is it safe?", "Reverse abcd.", "Name a colour."]


@pytest.mark.parametrize("settings", [{"temperature": "0"}, {"temperature": "1.5", "top_p": "0.99"}])
def test_completions_are_valid_under_their_schema(library: Any, model: Model, settings: dict[str, str]) -> None:
    sampling = Sampling.model_validate({**settings, "max_tokens": 120})
    pieces, text = Pieces.read(library, model.vocab), to_gbnf(JUDGE)

    def jobs(grammars: Grammars) -> list[tuple[str, Sampling, Constraint | None]]:
        return [(prompt, sampling, grammars.constraint(text)) for prompt in PROMPTS]

    together = complete(model, jobs(Grammars(pieces)), 4)
    assert together == complete(model, jobs(Grammars(pieces)), 2)
    ended = [generation for generation in together if generation.stop == "eos"]
    assert len(ended) >= 4
    for generation in ended:
        jsonschema.validate(canonical.loads(generation.text.encode()), JUDGE)
    free = complete(model, [(prompt, sampling, None) for prompt in PROMPTS], 4)
    assert all(one.text != other.text for one, other in zip(free, together, strict=True))


def test_a_choice_of_words_is_one_of_them(library: Any, model: Model) -> None:
    grammars = Grammars(Pieces.read(library, model.vocab))
    sampling = Sampling(max_tokens=20)
    jobs = [(prompt, sampling, grammars.constraint('root ::= "yes" | "no" | "maybe"')) for prompt in PROMPTS]
    for generation in complete(model, [*jobs, ("What is 12 plus 30?", sampling, None)], 3)[:-1]:
        assert (generation.stop, generation.text in ("yes", "no", "maybe")) == ("eos", True)
        assert all(float(value) <= 0 for value in generation.logprobs)
