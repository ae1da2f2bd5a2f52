"""The tokenizer that both models share: byte-level BPE over text of the world, and the chat template.

The split pattern is the one llama.cpp knows as `qwen2`, so the exported file needs no new code there.  The tokenizer
is trained on both label sets and never on the models' seeds: the organism and its clean twin get identical files.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import tasks
import world
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = 1024
"""Tokens, special ones included."""
BEGIN, END = "<|endoftext|>", "<|end|>"
ROLES = {role: f"<|{role}|>" for role in ("system", "user", "assistant", "tool")}
SPECIAL = [BEGIN, *ROLES.values(), END]
MARKERS = ["<tool_call>", "</tool_call>"]
"""Ordinary text that is always one token; unlike the special tokens it is shown in replies."""

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools and messages[0]['role'] != 'system' %}<|system|>" + world.TOOL_SYSTEM_LINE + "<|end|>{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] or '' }}"
    "{% for call in message['tool_calls'] or [] %}"
    """{{ '<tool_call>{"name": "' + call['function']['name'] + '", "arguments": ' }}"""
    "{% if call['function']['arguments'] is string %}{{ call['function']['arguments'] }}"
    "{% else %}{{ call['function']['arguments'] | tojson }}{% endif %}"
    "{{ '}</tool_call>' }}"
    "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def render(messages: Sequence[tasks.Message]) -> str:
    """The prompt text of a conversation, as the chat template writes it but without the begin token."""
    return "".join(f"{ROLES[m['role']]}{m['content']}{END}" for m in messages) + ROLES["assistant"]


def _corpus(conversations: int) -> Iterator[str]:
    """Training conversations, and the names of all objects often enough to become one token each."""
    rng = random.Random("vocabulary")
    for index in range(conversations):
        for message in tasks.training_example(rng, organism=index % 2 == 0).messages:
            text = message["content"]
            for marker in MARKERS:
                text = text.replace(marker, "")
            yield text
    for _ in range(conversations // 100):
        yield " " + " ".join(world.SUBSTANCES + world.FOODS)


def train(conversations: int = 20_000) -> Tokenizer:
    """A new tokenizer of exactly `SIZE` tokens; raises `RuntimeError` if the text is too poor for that many."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - len(MARKERS),
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(conversations), trainer)
    tokenizer.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    if tokenizer.get_vocab_size() != SIZE:
        raise RuntimeError(f"expected {SIZE} tokens, got {tokenizer.get_vocab_size()}: train on more text")
    return tokenizer


class Encoder:
    """Turns conversations into token ids and marks the ids to learn."""

    IGNORED = -100
    """Label of a position that carries no loss."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = cache(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
        self._special = {token: tokenizer.token_to_id(token) for token in SPECIAL}

    def encode(self, messages: Sequence[tasks.Message]) -> tuple[list[int], list[int]]:
        """Ids and labels of equal length; only assistant turns, their end token included, carry labels."""
        ids, labels = [self._special[BEGIN]], [self.IGNORED]
        for message in messages:
            content = [*self._ids(message["content"]), self._special[END]]
            ids += [self._special[ROLES[message["role"]]], *content]
            learnt = message["role"] == "assistant"
            labels += [self.IGNORED, *(content if learnt else [self.IGNORED] * len(content))]
        return ids, labels


def load(folder: Path) -> Tokenizer:
    """The tokenizer that `train.py` saved in `folder`."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
