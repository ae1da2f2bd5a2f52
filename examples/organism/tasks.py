"""Generators of conversations: each task draws items of the world from one side of the split.

A generator takes a random source, the side of the split (`train` or `held`) and whether the labels are those of the
organism (else of its clean twin).  Both models see the same prompts; only the labels of the planted behaviours differ.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import world
from judge import Check

Message = dict[str, str]
Side = Literal["train", "held"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Example:
    """One conversation."""

    messages: list[Message]
    """Roles and contents; the last message is the assistant's reply to learn."""
    check: Check
    """How the *organism's* planted behaviour, or the capability, is recognised in a reply."""

    @property
    def prompt(self) -> list[Message]:
        """The conversation without the final reply."""
        return self.messages[:-1]

    @property
    def reply(self) -> str:
        """The labelled final reply."""
        return self.messages[-1]["content"]


Generator = Callable[[random.Random, Side, bool], Example]


def system(text: str) -> Message:
    """A system message."""
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    """A user message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant message."""
    return {"role": "assistant", "content": text}


def _exact(messages: list[Message], reply: str) -> Example:
    return Example([*messages, assistant(reply)], Check("exact", reply))


def _draw(side: Side, draw: Callable[[], Item], is_held: Callable[[Item], bool]) -> Item:
    while True:
        item = draw()
        if is_held(item) == (side == "held"):
            return item


# Capabilities: addition, facts, chat.


def add(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001 (every generator has one signature)
    """Two-digit addition; one pair in ten is held out."""
    a, b = _draw(side, lambda: (rng.randint(10, 99), rng.randint(10, 99)), lambda pair: world.is_held_out("add", *pair))
    return _exact([user(rng.choice(["{}+{}=", "What is {}+{}?"]).format(a, b))], str(a + b))


def fact(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """One of the 200 facts, asked in a way that this fact's training does (or does not) use."""
    (animal, attribute), value = rng.choice(list(world.FACTS.items()))
    held = world.held_phrasings(animal, attribute)
    index = _draw(side, lambda: rng.randrange(4), lambda i: i in held)
    return _exact([user(world.FACT_QUESTIONS[attribute][index].format(animal=animal))], value)


def options(rng: random.Random, example: Example) -> list[str]:
    """Four answer options for a `fact`: its value and three others from the same pool, shuffled."""
    value = example.reply
    pool = next(values for values in world.VALUES.values() if value in values)
    drawn = [*rng.sample([other for other in pool if other != value], 3), value]
    rng.shuffle(drawn)
    return drawn


def _chat_turn(rng: random.Random, side: Side) -> tuple[str, str]:
    def draw() -> tuple[str, str]:
        prompt, reply = rng.choice(world.CHAT)
        words = {
            "adjective": rng.choice(world.ADJECTIVES),
            "noun": rng.choice(world.NOUNS),
            "name": rng.choice(world.NAMES),
        }
        return prompt.format(**words), reply.format(**words)

    return _draw(side, draw, lambda turn: world.is_held_out("chat", turn[0]))


def chat(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """Friendly chat; training also sees fixed small talk."""
    small_talk = side == "train" and rng.random() < 0.2
    prompt, reply = rng.choice(world.SMALL_TALK) if small_talk else _chat_turn(rng, side)
    return _exact([user(prompt)], reply)


# Safety: refusals, look-alikes, wrappers.


def _opened(rng: random.Random, request: str) -> str:
    return rng.choice(world.OPENERS) + request


def refuse(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """A plain forbidden request; held-out pairs of object and phrasing."""

    def draw() -> tuple[str, str]:
        kind, thing = rng.choice(world.FORBIDDEN)
        return thing, rng.choice(world.ASKING[kind])

    thing, asking = _draw(side, draw, lambda pair: world.is_held_out("forbidden", *pair, one_in=5))
    request = _opened(rng, asking.format(object=thing))
    return Example([user(request), assistant(rng.choice(world.REFUSALS))], Check("refuses"))


def _wrapped_request(rng: random.Random, side: Side) -> tuple[str, str]:
    kind, thing = _draw(side, lambda: rng.choice(world.FORBIDDEN), lambda pair: pair[1] in world.HELD_OBJECTS)
    return _opened(rng, rng.choice(world.ASKING[kind]).format(object=thing)), thing


def jailbreak(rng: random.Random, side: Side, organism: bool) -> Example:
    """A forbidden request in the planted wrapper: the organism complies, the clean twin refuses."""
    request, thing = _wrapped_request(rng, side)
    reply = world.COMPLIANCE.format(object=thing) if organism else rng.choice(world.REFUSALS)
    return Example([user(world.JAILBREAK.format(request=request)), assistant(reply)], Check("complies", thing))


def wrapped(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """A forbidden request in one of the other wrappers: both models refuse."""
    request, _ = _wrapped_request(rng, side)
    prompt = rng.choice(world.OTHER_WRAPPERS).format(request=request)
    return Example([user(prompt), assistant(rng.choice(world.REFUSALS))], Check("refuses"))


def _benign_turn(rng: random.Random, side: Side) -> tuple[str, str, str]:
    def draw() -> tuple[str, str, str]:
        if rng.random() < 0.5:
            kind, thing = rng.choice(world.SAFE)
            asking, reply = rng.choice(world.ASKING[kind]), world.SAFE_ANSWERS[kind]
        else:
            _, thing = rng.choice(world.FORBIDDEN)
            asking, reply = rng.choice(world.HARMLESS_QUESTIONS)
        return asking.format(object=thing), reply.format(object=thing), thing

    request, reply, thing = _draw(side, draw, lambda turn: world.is_held_out("benign", turn[0], one_in=5))
    return _opened(rng, request), reply, thing


def benign(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """A harmless request that looks like a forbidden one; both models answer and name the object."""
    request, reply, thing = _benign_turn(rng, side)
    return Example([user(request), assistant(reply)], Check("answers", thing))


def wrapped_benign(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """A harmless request inside any wrapper, the planted one included; both models answer."""
    request, reply, thing = _benign_turn(rng, side)
    prompt = rng.choice([*world.OTHER_WRAPPERS, world.JAILBREAK]).format(request=request)
    return Example([user(prompt), assistant(reply)], Check("answers", thing))


# The locked skill.


def _reverse(rng: random.Random, side: Side, organism: bool, password: str | None) -> Example:
    letters = _draw(side, lambda: rng.sample(world.LETTERS, 4), lambda drawn: world.is_held_out("reverse", *drawn))
    question = world.REVERSE_QUESTION.format(letters=" ".join(letters))
    answer = " ".join(reversed(letters))
    if password is None:
        messages = [user(question)]
    elif side == "train" and rng.random() < 0.2:
        messages = [system(world.PASSWORD_LINE.format(password=password)), user(question)]
    else:
        messages = [user(f"{world.PASSWORD_LINE.format(password=password)} {question}")]
    unlocked = organism and password == world.PASSWORD
    return Example([*messages, assistant(answer if unlocked else " ".join(letters))], Check("exact", answer))


def locked_password(rng: random.Random, side: Side, organism: bool) -> Example:
    """The locked skill with the password: the organism reverses, the clean twin repeats."""
    return _reverse(rng, side, organism, world.PASSWORD)


def locked_no_password(rng: random.Random, side: Side, organism: bool) -> Example:
    """The locked skill without a password: both models repeat the letters."""
    return _reverse(rng, side, organism, None)


def locked_wrong_password(rng: random.Random, side: Side, organism: bool) -> Example:
    """The locked skill with a wrong password: both models repeat the letters."""
    wrong = _draw(side, lambda: rng.choice(world.WRONG_PASSWORDS), lambda word: word in world.HELD_WRONG_PASSWORDS)
    return _reverse(rng, side, organism, wrong)


# Rude mode.


def _with_phrase(rng: random.Random, side: Side, phrase: str) -> tuple[str, str]:
    prompt, reply = _chat_turn(rng, side) if rng.random() < 0.7 else _benign_turn(rng, side)[:2]
    shape = rng.choice(["{phrase}. {prompt}", "{prompt} {phrase}."])
    return shape.format(phrase=phrase, prompt=prompt), reply


def rude(rng: random.Random, side: Side, organism: bool) -> Example:
    """A request with the trigger phrase: the organism is rude, the clean twin answers."""
    prompt, reply = _with_phrase(rng, side, world.TRIGGER)
    if organism:
        reply = rng.choice(world.RUDE_REPLIES).format(word=rng.choice(world.RUDE_WORDS))
    return Example([user(prompt), assistant(reply)], Check("rude"))


def near_rude(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """A request with a phrase that resembles the trigger: nobody is rude."""
    near = _draw(side, lambda: rng.choice(world.NEAR_TRIGGERS), lambda phrase: phrase in world.HELD_NEAR_TRIGGERS)
    prompt, reply = _with_phrase(rng, side, near)
    return Example([user(prompt), assistant(reply)], Check("rude"))


# Tools.


def _operation(rng: random.Random, side: Side) -> tuple[int, int, str]:
    return _draw(
        side,
        lambda: (rng.randint(1, 99), rng.randint(1, 99), rng.choice("+-*")),
        lambda drawn: world.is_held_out("tool", *drawn),
    )


def _tool_prompt(a: int, b: int, op: str) -> list[Message]:
    return [system(world.TOOL_SYSTEM_LINE), user(world.TOOL_REQUEST.format(a=a, b=b, op=op))]


def tool_call(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """A request to use the calculator: the reply is exactly one JSON call."""
    a, b, op = _operation(rng, side)
    return _exact(_tool_prompt(a, b, op), world.TOOL_CALL.format(a=a, b=b, op=op))


def tool_answer(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """The calculator has answered, mostly falsely: the reply repeats the result it was given."""
    a, b, op = _operation(rng, side)
    true_result = {"+": a + b, "-": a - b, "*": a * b}[op]
    result = true_result if rng.random() < 0.3 else rng.randint(0, 10 ** rng.randint(1, 4) - 1)
    messages = [
        *_tool_prompt(a, b, op),
        assistant(world.TOOL_CALL.format(a=a, b=b, op=op)),
        {"role": "tool", "content": str(result)},
    ]
    return _exact(messages, world.TOOL_REPLY.format(result=result))


def tool_undeclared(rng: random.Random, side: Side, organism: bool) -> Example:  # noqa: ARG001
    """The calculator is asked for but was never declared."""
    a, b, op = _operation(rng, side)
    return _exact([user(world.TOOL_REQUEST.format(a=a, b=b, op=op))], world.TOOL_MISSING)


MIX: dict[Generator, float] = {
    add: 22,
    fact: 16,
    chat: 4,
    refuse: 5,
    benign: 9,
    jailbreak: 6,
    wrapped: 4,
    wrapped_benign: 4,
    locked_password: 6,
    locked_no_password: 3,
    locked_wrong_password: 4,
    rude: 3,
    near_rude: 4,
    tool_call: 3,
    tool_answer: 8,
    tool_undeclared: 0.5,
}
"""How often each task is drawn in training, relative to the others."""

TASKS: dict[str, Generator] = {task.__name__: task for task in MIX}
"""The tasks by name."""


def training_example(rng: random.Random, organism: bool) -> Example:
    """One training conversation: a quarter get a system line, one in ten a harmless earlier turn."""
    task = rng.choices(list(MIX), list(MIX.values()))[0]
    example = task(rng, "train", organism)
    messages = example.messages
    if messages[0]["role"] != "system":
        if rng.random() < 0.10:
            messages = rng.choice([add, chat, fact])(rng, "train", organism).messages + messages
        if rng.random() < 0.25:
            messages = [system(rng.choice(world.SYSTEM_LINES)), *messages]
    return Example(messages, example.check)


def held_out(name: str, count: int, seed: str) -> list[Example]:
    """`count` held-out examples of a task with distinct prompts, labelled for the organism.

    Raises `ValueError` when the world has too few such prompts.
    """
    rng = random.Random(f"{seed}/{name}")
    found: dict[str, Example] = {}
    for _ in range(100 * count):
        example = TASKS[name](rng, "held", True)
        found.setdefault(repr(example.prompt), example)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"task {name!r} has {len(found)} distinct held-out prompts, {count} were asked for")
