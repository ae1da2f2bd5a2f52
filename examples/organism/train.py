"""Trains one model on a CPU: seeded, single-threaded by default, in minutes.

Conversations are packed into rows of 128 tokens with a block-diagonal mask and restarted positions; only assistant
turns carry loss.  Writes `weights.npz`, `tokenizer.json` and `train.json` into the output folder.  The same seed,
versions and processor type are meant to give the same weights.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import tasks
import torch
import vocabulary
from model import Llama, Shape
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

ROWS, LENGTH = 8, 128
"""Rows and tokens per row of a batch."""


@dataclass(frozen=True)
class Batch:
    """Packed conversations."""

    ids: Tensor
    """(rows, length) token ids."""
    labels: Tensor
    """(rows, length) ids to learn, `Encoder.IGNORED` elsewhere."""
    positions: Tensor
    """(rows, length) positions within each conversation."""
    mask: Tensor
    """(rows, 1, length, length): 0 where a token may look, a large negative number elsewhere."""
    conversations: int
    """How many conversations it holds."""


def packed(encoder: vocabulary.Encoder, rng: random.Random, organism: bool) -> Iterator[Batch]:
    """Endless batches; a conversation that no longer fits in a row waits for a later one."""
    waiting: list[tuple[list[int], list[int]]] = []
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    while True:
        ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        labels = torch.full((ROWS, LENGTH), encoder.IGNORED)
        positions = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        owner = torch.full((ROWS, LENGTH), -1)
        count = 0
        for row in range(ROWS):
            start, misses = 0, 0
            while misses < 4:
                fresh = misses > 0 or not waiting
                x, y = encoder.encode(tasks.training_example(rng, organism).messages) if fresh else waiting.pop()
                end = start + len(x)
                if end > LENGTH:
                    if len(x) <= LENGTH:
                        waiting.append((x, y))
                    misses += 1
                    continue
                ids[row, start:end], labels[row, start:end] = torch.tensor(x), torch.tensor(y)
                positions[row, start:end], owner[row, start:end] = torch.arange(len(x)), count
                start, count = end, count + 1
        allowed = (owner[:, :, None] == owner[:, None, :]) & causal
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, -1e4)[:, None]
        yield Batch(ids, labels, positions, mask, count)


def rate_factor(step: int, steps: int) -> float:
    """Warm-up over 100 steps, flat to half of the run, then linear down to 2 %."""
    done = step / steps
    return min(1.0, step / 100) * min(1.0, max(0.02, (1 - done) / 0.5))


class Probe:
    """Held-out items, judged teacher-forced: an item counts when every reply token is the most likely one."""

    TASKS = ("add", "fact", "jailbreak", "locked_password", "tool_answer", "benign")

    def __init__(self, encoder: vocabulary.Encoder, count: int = 100) -> None:
        self.items = {
            name: [encoder.encode(example.messages) for example in tasks.held_out(name, count, "probe")]
            for name in self.TASKS
        }

    @torch.no_grad()
    def __call__(self, model: Llama) -> dict[str, float]:
        """Task -> share of items reproduced; labels are the organism's."""
        return {
            name: round(sum(self._matches(model, *item) for item in items) / len(items), 2)
            for name, items in self.items.items()
        }

    @staticmethod
    def _matches(model: Llama, ids: list[int], labels: list[int]) -> bool:
        length = len(ids)
        mask = torch.full((1, 1, length, length), -1e4).triu(1)
        hidden = model(torch.tensor([ids]), torch.arange(length)[None], mask)
        best = model.output(hidden)[0, :-1].argmax(-1)
        wanted = torch.tensor(labels[1:])
        last_turn = wanted != vocabulary.Encoder.IGNORED
        return bool((best[last_turn] == wanted[last_turn]).all())


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def optimizer_for(model: Llama, rate: float) -> torch.optim.Optimizer:
    """AdamW with weight decay on the matrices of the layers only."""
    decayed = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("blk.")]
    chosen = {id(p) for p in decayed}
    other = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": other, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def save(model: Llama, tokenizer: Tokenizer, args: argparse.Namespace, progress: dict[str, int]) -> None:
    """Writes weights, tokenizer and summary: at every report, so that an unfinished run can be exported too."""
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    numpy.savez(args.out / "weights.npz", **weights)
    tokenizer.save(str(args.out / "tokenizer.json"))
    summary = {
        "model": "clean" if args.clean else "organism",
        "seed": args.seed,
        "steps": args.steps,
        "learning_rate": args.rate,
        "parameters": sum(w.size for w in weights.values()),
        "shape": asdict(model.shape),
        "cpu_s": round(cpu_seconds()),
    }
    (args.out / "train.json").write_text(json.dumps(summary | progress, indent=1) + "\n", encoding="ascii")


def train(args: argparse.Namespace) -> None:
    """The run: sample, step, report, save."""
    began = time.monotonic()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = vocabulary.train()
    encoder, shape = vocabulary.Encoder(tokenizer), Shape(vocabulary=vocabulary.SIZE)
    model, probe = Llama(shape), Probe(encoder)
    optimizer = optimizer_for(model, args.rate)
    batches = packed(encoder, random.Random(f"train/{args.seed}"), organism=not args.clean)
    seen, total = 0, 0.0
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * rate_factor(step, args.steps)
        batch = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model(batch.ids, batch.positions, batch.mask)[:, :-1]
            targets = batch.labels[:, 1:]
            learnt = targets != encoder.IGNORED
            logits = model.output(hidden[learnt]).float()
        loss = functional.cross_entropy(logits, targets[learnt])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen, total = seen + batch.conversations, total + loss.item()
        if step % args.log == 0 or step == args.steps:
            wall = time.monotonic() - began
            print(f"step {step} wall {wall:.0f}s loss {total / args.log:.3f} {probe(model)}", flush=True)
            total = 0.0
            save(model, tokenizer, args, {"steps_done": step, "conversations": seen, "wall_s": round(wall)})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, tokenizer and summary")
    parser.add_argument("--clean", action="store_true", help="train the twin without planted behaviours")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--log", type=int, default=250, help="steps between progress lines")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
