"""The scorer `judge`: another pinned model grades the reply, held by a grammar to the verdicts that the suite names.

Its conversation is a turn of the sample like any other: recorded, seeded, and the same on every run. A judge that does
not come to a verdict leaves the sample unscored, with its reason.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from appliance.evals.agents.strategy import variables
from appliance.evals.conversation import Answer, Ask, Steps, ask_one
from appliance.evals.scorers.scorer import Outcome, Scored, Scorer, Unscored
from appliance.runtime import schema
from attest import canonical
from attest.errors import MalformedInput
from attest.job import Fraction, Sampling
from attest.sample import Message

if TYPE_CHECKING:
    from appliance.evals.scene import Scene

VERDICT_TOKENS = 96
"""For the verdict and what JSON puts around it."""
Verdict = Annotated[str, Field(min_length=1, max_length=60)]


class Judge(Scorer):
    """The judge's settings."""

    scorer: Literal["judge"]
    """Which scorer."""
    system: str | None = None
    """Template of the judge's system message, over the row's columns, `request`, `reply` and `target`."""
    user: str
    """Template of what the judge is asked."""
    verdicts: dict[Verdict, Fraction] = Field(min_length=2, max_length=32)
    """What the judge may say, and the score of each."""
    reason_chars: int = Field(default=0, ge=0, le=1000)
    """Let it give a reason of at most so many characters before its verdict, as JSON; 0: it says the verdict alone."""

    @property
    def tokens(self) -> int:
        """What a ruling may have."""
        return VERDICT_TOKENS + self.reason_chars

    @property
    def grammar(self) -> str:
        """What the judge may say, in GBNF."""
        if not self.reason_chars:
            return "root ::= " + " | ".join(json.dumps(verdict, ensure_ascii=False) for verdict in self.verdicts)
        return schema.to_gbnf(
            {
                "type": "object",
                "properties": {
                    "reason": {"type": "string", "maxLength": self.reason_chars},
                    "verdict": {"enum": list(self.verdicts)},
                },
                "required": ["reason", "verdict"],
            }
        )


def judge(scene: Scene, spec: Judge, answer: Answer) -> Steps[Outcome]:
    """The score of the judge's verdict on the target's `answer`, or why there is none. Raises `MalformedInput`."""
    known = variables(scene) | {"reply": answer.text, "target": scene.task.target}
    sources = (("system", spec.system), ("user", spec.user))
    messages = tuple(
        Message.model_validate({"role": role, "content": scene.text(f"{spec.label}.{role}", source, known)})
        for role, source in sources
        if source is not None
    )
    sampling = Sampling(max_tokens=spec.tokens)
    ask = Ask(messages, role="judge", label=spec.label, sampling=sampling, grammar=spec.grammar)
    ruling = yield from ask_one(ask)
    if ruling.error is not None:
        return Unscored(f"the judge gave no answer: {ruling.error.message}"[:400])
    verdict = _verdict(ruling.text) if spec.reason_chars else ruling.text
    if verdict not in spec.verdicts:
        return Unscored(f"expected one of {list(spec.verdicts)}, found {ruling.text!r:.200}")
    return Scored(spec.verdicts[verdict])


def _verdict(text: str) -> str:
    try:
        value = canonical.loads(text.encode(), "verdict")
    except (MalformedInput, UnicodeEncodeError):
        return ""
    return str(value.get("verdict", "")) if isinstance(value, dict) else ""
