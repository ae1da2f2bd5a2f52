"""Agents: a model that may call tools, turn by turn, until it answers or a limit ends it.

1. ask the model; what it said is its answer, or calls of tools
2. carry the calls out, in their order, and record each
3. tell it the results, and ask again

Results go back as messages of role `tool` where the chat template knows tools, and of role `user` where a grammar
stands in for it. An agent that does not come to an answer is unscored, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from appliance.evals.conversation import Answer, Outcome, Steps, ask_one
from appliance.evals.grading import grade_all
from appliance.evals.scene import Scene
from appliance.evals.scorers import Unscored
from appliance.evals.tools import calls, toolbox
from appliance.evals.tools.calls import Said
from appliance.evals.tools.settings import AgentSpec
from appliance.evals.tools.toolbox import Toolbox
from attest.job import Sampling
from attest.sample import Message, ToolCall

UNREADABLE = "error: this is no call that can be read"


@dataclass(frozen=True)
class Ended:
    """What an agent came to."""

    place: int
    """Of its last turn, in the history."""
    answer: Answer
    """That turn's, with what counts as the reply, and the world as it was left."""
    unanswered: str | None = None
    """Why there is no answer, where there is none."""


def agent(scene: Scene) -> Steps[Outcome]:
    """The solver: one agent on the row, graded."""
    ended = yield from work(scene, scene.task.messages)
    if ended.answer.error is not None:
        return Outcome(None, error=ended.answer.error)
    if ended.unanswered is not None:
        reason = Unscored(ended.unanswered)
        return Outcome(ended.place, {spec.label: reason for spec in scene.suite.scorers})
    return Outcome(ended.place, (yield from grade_all(scene, ended.answer)))


def work(
    scene: Scene, messages: Sequence[Message], *, label: str = "", sampling: Sampling | None = None
) -> Steps[Ended]:
    """Let the model work on `messages` with the suite's tools."""
    spec = scene.suite.agent
    if spec is None:
        raise RuntimeError("an agent needs its settings")
    tools = Toolbox(spec.tools, calls=spec.max_calls, result_chars=spec.result_chars)
    conversation = list(messages) if spec.calls == "native" else _instructed(spec, messages)
    definitions = tools.definitions() if spec.calls == "native" else ()
    for _ in range(spec.turns):
        # 1. Ask.
        ask = scene.ask(conversation, label=label, sampling=sampling)
        answer = yield from ask_one(replace(ask, tools=definitions, grammar=spec.grammar))
        place = scene.history.last
        said = calls.read(answer.text) if spec.calls == "native" else calls.constrained(answer.text)
        if answer.error is not None or not (said.calls or said.broken):
            return Ended(place, replace(answer, said=said.text, world=tools.world.values))
        # 2. Call.
        results = [tools.call(call) for call in said.calls]
        unread = [ToolCall(name="", arguments=text, result=UNREADABLE, failed=True) for text in said.broken]
        for result in (*results, *unread):
            scene.history.tool(result)
        # 3. Tell.
        conversation += _told(spec, answer.text, said, results)
    return Ended(place, answer, f"the agent came to no answer in its {spec.turns} turns")


def _instructed(spec: AgentSpec, messages: Sequence[Message]) -> list[Message]:
    """The conversation with the tools described in its system message."""
    told = toolbox.instructions(spec.tools)
    if messages and messages[0].role == "system":
        first = messages[0].model_copy(update={"content": f"{messages[0].content}\n\n{told}"})
        return [first, *messages[1:]]
    return [Message(role="system", content=told), *messages]


def _told(spec: AgentSpec, reply: str, said: Said, results: Sequence[ToolCall]) -> list[Message]:
    """What the model said, and what came of it."""
    unread = [Message(role="user", content=UNREADABLE)] if said.broken else []
    if not results:
        return [Message(role="assistant", content=reply), *unread]
    if spec.calls == "grammar":
        told = "\n".join(f"{each.name}: {each.result}" for each in results)
        return [Message(role="assistant", content=reply), Message(role="user", content=told)]
    return [
        Message(role="assistant", content=said.text, tool_calls=said.calls),
        *(Message(role="tool", content=each.result, name=each.name) for each in results),
        *unread,
    ]
