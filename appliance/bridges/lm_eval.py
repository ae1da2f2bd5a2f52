"""lm-eval's tasks, unmodified and in process, on a model in a sealed worker.

    from appliance.bridges.session import open_session
    from appliance.bridges.lm_eval import SealedLM

    with open_session(Path("model.gguf")) as session:
        lm_eval.simple_evaluate(SealedLM(session), tasks=["my_task"], ...)

Text and continuation are tokenized apart, as in our own suites; space at the end of a text goes to the continuation, as
in lm-eval's own models. A text whose likelihood is asked as a whole is scored in lm-eval's disjoint windows where it is
longer than the context. No other is ever cut: one that does not fit is refused, and so are settings of generation that
the sampler does not have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lm_eval.api.model import LM

from appliance.bridges.session import Reply, Session, choose, complete, decimal, roll
from attest.errors import MalformedInput, Unsupported
from attest.job import Sampling

MAX_TOKENS: Final = 256
"""Of a completion whose task says nothing, as in lm-eval's own models."""
SETTINGS: Final = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p"})


class SealedLM(LM):  # type: ignore[misc] # lm-eval is not installed where types are checked
    """lm-eval's model over `session`. All requests of a call are under way at once; no reply depends on another."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its text, with six places, and whether it is the greedy one."""
        pairs = [split(*request.args) for request in requests]
        found = self._likelihoods(pairs)
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, value)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], **_shown: Any) -> list[float]:
        """Log-likelihood of each text after the model's first token (its last, where it has no first), with six places.

        One that is longer than the context is scored in windows, see `appliance.runtime.request.windows`.
        """
        replies = self._session.ask_all(roll(request.args[0]) for request in requests)
        found = [float(choice.logprob) for reply in replies for choice in answered(reply).answer.choices or ()]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def generate_until(self, requests: Sequence[Any], **_shown: Any) -> list[str]:
        """The completion of each text, up to the first of its stop strings."""
        asks, streams, seen = [], [], Counter[str]()
        for request in requests:
            text, settings = request.args
            stream = f"{request.task_name}/{request.doc_id}/{request.idx}"
            seen[stream] += 1  # a task with repeats asks the same again
            asks.append(complete(text, sampling(settings), stops(settings)))
            streams.append(f"{stream}#{seen[stream]}")
        found = [answered(reply).answer.text for reply in self._session.ask_all(asks, streams)]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, value)
        return found

    def _likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Continuations of one text are one request: its tokens are decoded once for all of them."""
        continuations: dict[str, dict[str, None]] = {}
        for text, continuation in pairs:
            continuations.setdefault(text, {})[continuation] = None
        asks = [choose(text, list(options)) for text, options in continuations.items()]
        found: dict[tuple[str, str], tuple[float, bool]] = {}
        for text, reply in zip(continuations, map(answered, self._session.ask_all(asks)), strict=True):
            for choice, greedy in zip(reply.answer.choices or (), reply.greedy, strict=True):
                found[text, choice.text] = (float(choice.logprob), greedy)
        return [found[pair] for pair in pairs]


def split(text: str, continuation: str) -> tuple[str, str]:
    """Text and continuation, with the space at the end of the text moved to where tokens begin with it."""
    bare = text.rstrip()
    return bare, text[len(bare) :] + continuation


def stops(settings: Mapping[str, Any]) -> list[str]:
    """What ends a completion."""
    until = settings.get("until") or []
    return [text for text in ([until] if isinstance(until, str) else until) if text]


def sampling(settings: Mapping[str, Any]) -> Sampling:
    """How a task wants tokens to be drawn. Raises `Unsupported` for a setting that the sampler does not have."""
    if unknown := sorted(settings.keys() - SETTINGS):
        raise Unsupported("generation_kwargs", f"expected some of {sorted(SETTINGS)}, found {unknown}")
    drawn = settings.get("do_sample", float(settings.get("temperature", 0)) > 0)
    return Sampling(
        temperature=decimal(settings.get("temperature", 1)) if drawn else "0",
        top_k=int(settings.get("top_k", 0)),
        top_p=decimal(settings.get("top_p", 1)),
        min_p=decimal(settings.get("min_p", 0)),
        max_tokens=int(settings.get("max_gen_toks", MAX_TOKENS)),
    )


def answered(reply: Reply) -> Reply:
    """`reply`, if it is an answer. Raises `MalformedInput` for a request that the model could not serve."""
    if error := reply.answer.error:
        raise MalformedInput("request of lm-eval", f"{error.code}: {error.message}")
    return reply
