"""Requests as the scheduler sees them: chains of tokens that want logits, and what each does with its logits.

A request is a pure consumer: given the same rows of logits it makes the same reply, whatever ran beside it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance.runtime import sampler
from appliance.runtime.grammar import Constraint
from appliance.runtime.model import Model, RequestError
from attest.job import Sampling
from attest.sample import Choice, Generation, StopReason


class Deadline:
    """The moment at which a request has to end. The time runs from the first `start` on."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end: float | None = None

    @property
    def running(self) -> bool:
        """Whether the time runs."""
        return self._end is not None

    def start(self) -> None:
        """Let the time run, if it does not already."""
        if self._end is None:
            self._end = time.monotonic() + self.timeout_s

    def check(self) -> None:
        """Raises `RequestError` once the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            raise RequestError("deadline", f"expected an answer within {self.timeout_s:g} s, found none")


@dataclass(eq=False)
class Chain:
    """Tokens that have to be in a slot, in order, for `owner` to see the logits that it wants."""

    owner: Generate | Choose | Roll
    """Whose chain it is."""
    tokens: list[int]
    """What the slot is to hold. The owner appends to it while it generates."""
    wanted: int
    """The index of the first token whose logits the owner takes; from there on it takes all."""
    held: int = 0
    """How many of `tokens` the slot holds."""
    since: int = 0
    """When it was given its slot, on the slots' own clock."""

    @property
    def pending(self) -> int:
        """How many tokens are still to be decoded. None pending: the chain has ended."""
        return len(self.tokens) - self.held


def check_prompt(prompt: Sequence[int], context_tokens: int) -> None:
    """Raises `RequestError` for a prompt that is empty or leaves no room for an answer."""
    if not prompt:
        raise RequestError("empty-prompt", "expected a prompt of at least one token, found none")
    if len(prompt) >= context_tokens:
        raise RequestError(
            "prompt-too-long", f"expected fewer than {context_tokens} prompt tokens, found {len(prompt)}"
        )


@dataclass(eq=False)
class Generate:
    """A completion of `prompt`, token by token, within the context."""

    model: Model
    prompt: list[int]
    settings: Sampling
    stop: Sequence[str]
    seed: int
    stream: str
    """Names the sample; with `seed` and the token's place it decides every draw."""
    context_tokens: int
    deadline: Deadline
    constraint: Constraint | None = None
    """The grammar that the completion has to follow."""
    _tokens: list[int] = field(default_factory=list)
    _logprobs: list[str] = field(default_factory=list)
    _text: bytes = b""
    _reason: StopReason | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt, self.context_tokens)
        self._fingerprint = hashlib.sha256()
        self._stops = [item.encode() for item in self.stop]
        self._started = False

    def chains(self) -> list[Chain]:
        """The one chain of a generation."""
        if self._started:
            return []
        self._started = True
        return [Chain(self, list(self.prompt), len(self.prompt) - 1)]

    def take(self, chain: Chain, logits: sampler.Logits) -> None:
        """Draw the next token, and append it to the chain unless it is the last."""
        self._fingerprint.update(logits.data)
        draw = sampler.choose(logits, self.settings, self.seed, self.stream, len(self._tokens), self.constraint)
        if self.model.ends(draw.token):
            self._reason = "eos"
            return
        if self.constraint is not None:
            self.constraint.accept(draw.token)
        self._tokens.append(draw.token)
        self._logprobs.append(sampler.decimal(draw.logprob))
        piece = self.model.piece(draw.token)
        self._text += piece
        if (end := self._stop_at(len(piece))) >= 0:
            self._text, self._reason = self._text[:end], "stop"
        elif len(self.prompt) + len(self._tokens) >= self.context_tokens:
            self._reason = "context"
        elif len(self._tokens) >= self.settings.max_tokens:
            self._reason = "length"
        else:
            chain.tokens.append(draw.token)

    def reply(self) -> Generation:
        """The completion, once its chain has ended."""
        assert self._reason is not None
        return Generation(
            tokens=tuple(self._tokens),
            text=self._text.decode("utf-8", "replace"),
            stop=self._reason,
            logprobs=tuple(self._logprobs),
            logits_digest="sha256:" + self._fingerprint.hexdigest(),
        )

    @property
    def text(self) -> bytes:
        """What it has said so far."""
        return self._text

    def _stop_at(self, added: int) -> int:
        """Where the first stop string begins, or -1; only the `added` last bytes are new."""
        found = [self._text.find(item, max(0, len(self._text) - added - len(item))) for item in self._stops]
        return min((at for at in found if at >= 0), default=-1)


@dataclass(eq=False)
class Choose:
    """The log-likelihood of each of `options` after `prompt`."""

    model: Model
    prompt: list[int]
    options: Sequence[str]
    context_tokens: int
    deadline: Deadline

    def __post_init__(self) -> None:
        check_prompt(self.prompt, self.context_tokens)
        self.option_tokens = [self.model.tokenize(text, special=False, add_bos=False) for text in self.options]
        """Token ids of each option."""
        for text, tokens in zip(self.options, self.option_tokens, strict=True):
            if not tokens or len(self.prompt) + len(tokens) > self.context_tokens:
                raise RequestError("option", f"option {text[:80]!r} is empty or does not fit into the context")
        self._totals = [0.0] * len(self.options)
        self._fingerprints = [hashlib.sha256() for _ in self.options]
        self._seen = [0] * len(self.options)
        self.greedy = [True] * len(self.options)
        """Of each option, whether each of its tokens was the likeliest where it stands; of equal ones, the lower id."""
        self._option_of: dict[Chain, int] = {}
        self._phase = 0

    def chains(self) -> list[Chain]:
        """First the prompt; once that is decoded, every option of more than one token after it."""
        self._phase += 1
        if self._phase == 1:
            return [Chain(self, list(self.prompt), len(self.prompt) - 1)]
        if self._phase > 2:
            return []
        for option, tokens in enumerate(self.option_tokens):
            if len(tokens) > 1:
                self._option_of[Chain(self, [*self.prompt, *tokens[:-1]], len(self.prompt))] = option
        return list(self._option_of)

    def take(self, chain: Chain, logits: sampler.Logits) -> None:
        """Add up what the logits say of the next token of the chain's option; after the prompt, of every option's."""
        if chain in self._option_of:
            self._add(self._option_of[chain], logits)
        else:
            for option in range(len(self.options)):
                self._add(option, logits)

    def reply(self) -> list[Choice]:
        """The options in order, once all chains have ended."""
        return [
            Choice(
                text=text,
                tokens=tuple(tokens),
                logprob=sampler.decimal(total),
                logits_digest="sha256:" + fingerprint.hexdigest(),
            )
            for text, tokens, total, fingerprint in zip(
                self.options, self.option_tokens, self._totals, self._fingerprints, strict=True
            )
        ]

    def _add(self, option: int, logits: sampler.Logits) -> None:
        token = self.option_tokens[option][self._seen[option]]
        self._totals[option] += sampler.logprob(logits, token)
        self._fingerprints[option].update(logits.data)
        self.greedy[option] = self.greedy[option] and int(logits.argmax()) == token
        self._seen[option] += 1


def windows(tokens: Sequence[int], first: int, most: int) -> Iterator[tuple[list[int], list[int]]]:
    """Pieces of a text, each with the tokens that it is scored after: a model sees at most `most` tokens at once.

    Every token is scored once, as lm-eval does it (`lm_eval.utils.get_rolling_token_windows` with `context_len=1`, made
    disjoint): the first `most` after `first`, the next ones after the token before them, and the last few after as many
    as there is room for.
    """
    head = min(most, len(tokens))
    yield [first], list(tokens[:head])
    for start in range(head, len(tokens), most):
        end = min(start + most, len(tokens))
        yield list(tokens[end - most - 1 : start]), list(tokens[start:end])


@dataclass(eq=False)
class Roll:
    """The log-likelihood of a whole text, however long, in `windows` of the context."""

    model: Model
    text: str
    context_tokens: int
    deadline: Deadline

    def __post_init__(self) -> None:
        self.prompt = [self.model.first]
        self._tokens = self.model.tokenize(self.text, special=False, add_bos=False)
        if not self._tokens:
            raise RequestError("empty-text", "expected a text of at least one token, found none")
        self._windows = list(windows(self._tokens, self.model.first, self.context_tokens))
        self._totals = [0.0] * len(self._windows)
        self._fingerprints = [hashlib.sha256() for _ in self._windows]
        self._seen = [0] * len(self._windows)
        self._window_of: dict[Chain, int] = {}

    def chains(self) -> list[Chain]:
        """All windows, which do not wait for one another."""
        if self._window_of:
            return []
        for number, (before, scored) in enumerate(self._windows):
            self._window_of[Chain(self, [*before, *scored[:-1]], len(before) - 1)] = number
        return list(self._window_of)

    def take(self, chain: Chain, logits: sampler.Logits) -> None:
        """Add what the logits say of the window's next token."""
        number = self._window_of[chain]
        token = self._windows[number][1][self._seen[number]]
        self._totals[number] += sampler.logprob(logits, token)
        self._fingerprints[number].update(logits.data)
        self._seen[number] += 1

    def reply(self) -> list[Choice]:
        """The text as the one choice, once all chains have ended; its digest is over those of the windows."""
        fingerprint = hashlib.sha256(b"".join(one.digest() for one in self._fingerprints))
        return [
            Choice(
                text=self.text,
                tokens=tuple(self._tokens),
                logprob=sampler.decimal(sum(self._totals)),
                logits_digest="sha256:" + fingerprint.hexdigest(),
            )
        ]


Request = Generate | Choose | Roll
"""What the scheduler runs. It asks for `chains` at the start and whenever one has ended, and hands out the rows that
they want by `take`, each a view that does not outlive the call."""
