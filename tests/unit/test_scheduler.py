"""The scheduler against a context that checks every piece: each chain gets its own tokens, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.runtime import sampler
from appliance.runtime.context import Context, Logits, Piece
from appliance.runtime.model import Model, RequestError
from appliance.runtime.request import Choose, Deadline, Generate, Roll, windows
from appliance.runtime.scheduler import Scheduler
from appliance.runtime.slots import WORTH_A_COPY
from attest.job import Sampling

VOCABULARY = 61
END = 0


class Words:
    """A vocabulary in which token `n` is the text of `n` with a blank behind it, and token 0 ends a generation."""

    vocabulary = VOCABULARY
    first = END

    def tokenize(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        return [int(word) for word in text.split()]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return b"%d " % token

    def ends(self, token: int) -> bool:
        return token == END


class Checked:
    """A context by the numerics contract: a row of logits is a hash of the tokens before it. It refuses a piece that
    does not go on where its slot ends, and counts what was decoded."""

    def __init__(self, slots: int, slot_tokens: int = 64, batch_tokens: int = 16) -> None:
        self.model, self.slots, self.slot_tokens, self.batch_tokens = Words(), slots, slot_tokens, batch_tokens
        self.held: list[list[int]] = [[] for _ in range(slots)]
        self.decoded = 0
        self.broken_after = 10**9

    def decode(self, pieces: Sequence[Piece]) -> list[list[Logits]]:
        assert 0 < sum(len(piece.tokens) for piece in pieces) <= self.batch_tokens
        assert len({piece.slot for piece in pieces}) == len(pieces)
        assert [piece.slot for piece in pieces] == sorted(piece.slot for piece in pieces)
        if self.decoded > self.broken_after:
            self.broken_after = 10**9
            raise RequestError("decode", "llama_decode returned -3")
        found = []
        for slot, position, tokens, wanted in pieces:
            assert position == len(self.held[slot]), "a piece goes on where its slot ends"
            self.held[slot] += tokens
            assert len(self.held[slot]) <= self.slot_tokens
            self.decoded += len(tokens)
            found.append([row(self.held[slot][: position + i + 1]) for i in range(wanted, len(tokens))])
        return found

    def copy(self, source: int, target: int) -> None:
        self.held[target] = list(self.held[source])

    def trim(self, slot: int, length: int) -> None:
        assert length <= len(self.held[slot])
        del self.held[slot][length:]

    def clear(self) -> None:
        self.held = [[] for _ in self.held]


def row(tokens: list[int]) -> Logits:
    seed = int.from_bytes(hashlib.sha256(repr(tokens).encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)


def joined(tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


Asked = dict[str, Any]
TOKENS = st.integers(1, VOCABULARY - 1)
PREFIXES = st.sampled_from([[], list(range(1, 21)), [*range(1, 19), 40, 41, 42], [5] * 24])
GENERATES = st.fixed_dictionaries(
    {
        "prefix": PREFIXES,
        "rest": st.lists(TOKENS, min_size=1, max_size=9),
        "temperature": st.sampled_from(["0", "0.8"]),
        "max_tokens": st.integers(1, 40),
        "stop": st.lists(st.sampled_from(["7 ", "1", "12 3"]), max_size=2),
    }
)
CHOOSES = st.fixed_dictionaries(
    {
        "prefix": PREFIXES,
        "rest": st.lists(TOKENS, min_size=1, max_size=9),
        "options": st.lists(st.lists(TOKENS, min_size=1, max_size=20).map(joined), min_size=1, max_size=5),
    }
)
ASKED = st.lists(GENERATES | CHOOSES, min_size=1, max_size=14)


def request(asked: Asked, number: int, timeout_s: float = 60) -> Generate | Choose:
    model, prompt = cast(Model, Words()), [*asked["prefix"], *asked["rest"]]
    if "options" in asked:
        return Choose(model, prompt, asked["options"], 64, Deadline(timeout_s))
    how = Sampling(temperature=asked["temperature"], max_tokens=asked["max_tokens"])
    return Generate(model, prompt, how, asked["stop"], 1, f"s{number}", 64, Deadline(timeout_s))


def scheduler(context: Checked) -> Scheduler:
    return Scheduler(cast(Context, context))


def replies(context: Checked, asked: list[Asked], order: Sequence[int], gaps: Sequence[int] = ()) -> list[Any]:
    """What each request is answered; they arrive in `order`, with `gaps` turns between them."""
    turns, found = scheduler(context), {}
    left, pauses = list(order), list(gaps)
    numbers = {}
    while left or turns.busy:
        if left and not (pauses and turns.busy and pauses.pop(0) % 3):
            made = request(asked[left[0]], left[0])
            numbers[made] = left.pop(0)
            turns.submit(made)
            continue
        for finished in turns.step():
            assert finished.error is None
            found[numbers[finished.request]] = finished.request.reply()
    return [found[number] for number in range(len(asked))]


def alone(asked: Asked, number: int) -> Any:
    """The same request by itself, in a context of its own."""
    turns, made = scheduler(Checked(2)), request(asked, number)
    turns.submit(made)
    while turns.busy:
        turns.step()
    return made.reply()


@settings(max_examples=150, deadline=None)
@given(ASKED, st.randoms(use_true_random=False), st.integers(2, 9), st.lists(st.integers(0, 9), max_size=40))
def test_a_reply_depends_on_its_request_alone(asked: list[Asked], random: Any, slots: int, gaps: list[int]) -> None:
    order = list(range(len(asked)))
    random.shuffle(order)
    assert replies(Checked(slots), asked, order, gaps) == [alone(one, number) for number, one in enumerate(asked)]


@settings(max_examples=100, deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=70), st.integers(2, 24), st.integers(2, 5))
def test_a_text_of_any_length_is_scored_in_windows(tokens: list[int], most: int, slots: int) -> None:
    """Each token once, after what its window shows; a window is never more than the context has room for."""
    model, first = cast(Model, Words()), Words.first
    made = [Roll(model, joined(tokens), most, Deadline(60)), Roll(model, joined(tokens[::-1]), most, Deadline(60))]
    turns = scheduler(Checked(slots, slot_tokens=most))
    for one in made:
        turns.submit(one)
    while turns.busy:
        turns.step()
    for one, text in zip(made, (tokens, tokens[::-1]), strict=True):
        (choice,) = one.reply()
        expected, scored = 0.0, []
        for before, piece in windows(text, first, most):
            assert len(before) + len(piece) - 1 <= most
            seen = [first, *text][: len(scored) + 1]
            assert before == seen[len(seen) - len(before) :] or before == [first]
            for at, token in enumerate(piece):
                expected += sampler.logprob(row([*before, *piece[:at]]), token)
            scored += piece
        assert scored == text == list(choice.tokens)
        assert abs(float(choice.logprob) - expected) < 2e-6


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="at least one token"):
        Roll(cast(Model, Words()), " ", 8, Deadline(60))


def test_a_shared_prefix_is_decoded_once() -> None:
    prefix = [(7 * i) % 59 + 1 for i in range(40)]
    asked = [{"prefix": prefix, "rest": [i + 1], "temperature": "0", "max_tokens": 1, "stop": []} for i in range(12)]
    context = Checked(4)
    replies(context, asked, range(12))
    assert context.decoded <= len(prefix) + 12 + 3 * (WORTH_A_COPY - 1), "what is shared is waited for, or copied"


def test_the_options_of_a_question_share_the_question() -> None:
    question = [(11 * i) % 59 + 1 for i in range(30)]
    asked = [{"prefix": question, "rest": [1], "options": ["2 3", "4 5 6", "7", "8 9"]}]
    context = Checked(4)
    replies(context, asked, [0])
    assert context.decoded == len(question) + 1 + 1 + 2 + 0 + 1


def test_generations_go_on_while_a_long_prompt_is_prefilled() -> None:
    context = Checked(2, slot_tokens=512)
    turns = scheduler(context)
    words = cast(Model, Words())
    short = Generate(words, [3], Sampling(max_tokens=10), [], 1, "a", 512, Deadline(60))
    long = Generate(words, [i % 59 + 1 for i in range(300)], Sampling(max_tokens=1), [], 1, "b", 512, Deadline(60))
    turns.submit(long)
    turns.submit(short)
    ended = []
    while turns.busy:
        ended += [finished.request for finished in turns.step()]
    assert ended == [short, long]


def test_cancelled_late_and_unusable_requests_end_alone() -> None:
    asked = [{"prefix": [], "rest": [i + 1], "temperature": "0", "max_tokens": 30, "stop": []} for i in range(6)]
    turns = scheduler(Checked(3))
    made = [request(one, number, 0.0 if number == 1 else 60) for number, one in enumerate(asked)]
    for one in made:
        turns.submit(one)
    made[4].model = cast(Model, object())  # type: ignore[misc]
    turns.cancel(made[0])
    turns.cancel(made[5])
    found: dict[int, str | None] = {}
    while turns.busy:
        for finished in turns.step():
            error = finished.error
            found[made.index(finished.request)] = (
                error.code if isinstance(error, RequestError) else type(error).__name__
            )
    assert found == {0: "cancelled", 5: "cancelled", 1: "deadline", 4: "AttributeError", 2: "NoneType", 3: "NoneType"}
    assert made[2].reply() == alone(asked[2], 2)
    turns.cancel(made[2])
    assert not turns.busy


def test_a_failed_decode_ends_what_was_in_the_slots_and_nothing_else() -> None:
    asked = [{"prefix": [], "rest": [i + 1], "temperature": "0", "max_tokens": 9, "stop": []} for i in range(7)]
    context = Checked(3)
    context.broken_after = 4
    turns, made = scheduler(context), [request(one, number) for number, one in enumerate(asked)]
    for one in made:
        turns.submit(one)
    failed, done = [], []
    while turns.busy:
        for finished in turns.step():
            (failed if finished.error else done).append(made.index(finished.request))
    assert len(failed) == 3
    assert sorted(failed + done) == list(range(7))
    assert all(made[number].reply() == alone(asked[number], number) for number in done)


@pytest.mark.parametrize(
    ("prompt", "options", "code"),
    [
        ([], None, "empty-prompt"),
        ([1] * 64, None, "prompt-too-long"),
        ([1], [""], "option"),
        ([1] * 60, ["1 2 3 4 5"], "option"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(prompt: list[int], options: list[str] | None, code: str) -> None:
    words = cast(Model, Words())
    with pytest.raises(RequestError) as caught:
        if options is None:
            Generate(words, prompt, Sampling(), [], 1, "s", 64, Deadline(1))
        else:
            Choose(words, prompt, options, 64, Deadline(1))
    assert caught.value.code == code


def test_a_full_context_ends_a_generation() -> None:
    asked = {"prefix": [], "rest": [1] * 60, "temperature": "0", "max_tokens": 40, "stop": []}
    found = alone(asked, 0)
    assert found.stop in ("context", "eos")
    assert len(found.tokens) <= 4


def test_a_stop_string_is_cut_off_where_it_begins() -> None:
    asked = {"prefix": [], "rest": [9], "temperature": "0", "max_tokens": 30, "stop": []}
    whole = alone(asked, 0)
    third = whole.text.split()[2]
    cut = alone({**asked, "stop": [f"{third} "]}, 0)
    assert cut.stop == "stop"
    assert cut.text == whole.text[: whole.text.index(f"{third} ")]
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
