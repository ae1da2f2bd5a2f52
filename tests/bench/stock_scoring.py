"""The other sides of four-choice scoring that run in Python, on stock llama-cpp-python, in the bench's own venv.

`stock_scoring.py SIDE MODEL PROMPTS ROWS THREADS` prints one JSON line: seconds, and what was picked.

- `naive`: for every choice, forget everything, evaluate prompt and choice, read the log-probabilities;
- `lm-eval-echo`: lm-eval's evaluator on a model that asks llama-cpp-python for an echoed completion with
  log-probabilities, as lm-eval's own `gguf` model asks llama-cpp-python's server, but in process;
- `lm-eval-prefix`: lm-eval's evaluator on a model that evaluates only what differs from the request before it, and
  reads the rows of logits itself: the best that one sequence at a time can do.

It imports nothing of this project: the venv has none of its dependencies.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

Row = dict[str, Any]
CONTEXT_TOKENS = 2048


def shared(prompts: list[list[int]]) -> list[int]:
    """What all prompts begin with: the shots."""
    columns = zip(*prompts, strict=False)
    same = next((i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, prompts)))
    return prompts[0][:same]


def log_likelihood(scores: Any, first: int, tokens: list[int]) -> float:
    """Of `tokens`, whose first one is predicted by row `first` of `scores`."""
    total = 0.0
    for row, token in enumerate(tokens, first):
        logits = scores[row].astype(np.float64)
        total += float(logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return total


def naive(llama: Any, rows: list[Row]) -> list[list[float]]:
    """Log-likelihoods of every row's options."""
    found = []
    for row in rows:
        values = []
        for tokens in row["option_tokens"]:
            llama.reset()
            llama.eval(row["tokens"] + tokens)
            values.append(log_likelihood(llama.scores, len(row["tokens"]) - 1, tokens))
        found.append(values)
    return found


def echo(llama: Any, text: str, option: str, context: list[int], continuation: list[int]) -> float:
    """By the completion interface, which takes text, adds the first token itself and leaves it out of its reply."""
    first = llama.detokenize(context[:1], special=True).decode()
    reply = llama.create_completion(
        text.removeprefix(first) + option, max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    if reply["usage"]["prompt_tokens"] != len(context) + len(continuation) or context[0] != llama.token_bos():
        raise SystemExit(f"expected {len(context) + len(continuation)} prompt tokens, found {reply['usage']}")
    values = reply["choices"][0]["logprobs"]["token_logprobs"][len(context) - 1 :]
    return float(sum(values[: len(continuation)]))


def prefix(llama: Any, _text: str, _option: str, context: list[int], continuation: list[int]) -> float:
    """By the rows of logits; what the context has in common with the request before stays."""
    tokens = (context + continuation)[:-1]
    held = llama.input_ids[: llama.n_tokens].tolist()
    common = next(
        (i for i, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b), min(len(held), len(tokens))
    )
    llama.n_tokens = common
    if common < len(tokens):
        llama.eval(tokens[common:])
    return log_likelihood(llama.scores, len(context) - 1, continuation)


def lm_eval_side(llama: Any, rows: list[Row], ask: Any) -> tuple[list[list[float]], float, float]:
    """Log-likelihoods by lm-eval's evaluator, and the wall and CPU seconds of its requests."""
    from datasets import Dataset
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    expected = {row["text"]: row for row in rows}
    seen: dict[str, list[float]] = {}
    spent = [0.0, 0.0]

    class InProcess(TemplateLM):
        eot_token_id = llama.token_eos()
        tokenizer_name = "gguf"

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            return list(llama.tokenize(string.encode(), add_bos=False, special=True))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            results = []
            for (text, option), context, continuation in requests:
                if context != expected[text]["tokens"] or continuation not in expected[text]["option_tokens"]:
                    raise SystemExit("lm-eval's tokens differ from ours: the sides would not do the same work")
                value = ask(llama, text, option, context, continuation)
                seen.setdefault(text, []).append(value)
                results.append((value, False))
            return results

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            wall, cpu = time.perf_counter(), time.process_time()
            results = super().loglikelihood(requests, disable_tqdm=True)
            spent[:] = [time.perf_counter() - wall, time.process_time() - cpu]
            return results

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise RuntimeError("the task asks for log-likelihoods alone")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            raise RuntimeError("the task asks for log-likelihoods alone")

    class Rows(ConfigurableTask):
        def __init__(self) -> None:
            super().__init__(
                config={
                    "task": "mmlu_rows",
                    "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
                    "test_split": "test",
                    "output_type": "multiple_choice",
                    "doc_to_text": lambda row: row["text"],
                    "doc_to_choice": lambda row: row["options"],
                    "doc_to_target": lambda row: row["target"],
                    "target_delimiter": "",
                    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                }
            )

    result = evaluate(lm=InProcess(), task_dict={"mmlu_rows": Rows()}, bootstrap_iters=0)
    assert result is not None and result["results"]["mmlu_rows"]["acc,none"] >= 0
    return [seen[row["text"]] for row in rows], spent[0], spent[1]


def main() -> None:
    """Run one side."""
    side, model, prompts, count, threads = sys.argv[1:]
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from llama_cpp import Llama

    with open(prompts, encoding="utf-8") as file:  # noqa: PTH123
        every = json.load(file)
    settings = {"n_threads": int(threads), "n_threads_batch": int(threads), "verbose": False}
    llama = Llama(model, n_ctx=CONTEXT_TOKENS, logits_all=True, **settings)
    # A warm start: who keeps a prefix has the shots before the clock runs.
    llama.eval(shared([row["tokens"] for row in every]))
    rows = every[: int(count)]
    if side == "naive":
        wall, cpu = time.perf_counter(), time.process_time()
        values = naive(llama, rows)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    else:
        values, wall, cpu = lm_eval_side(llama, rows, echo if side == "lm-eval-echo" else prefix)
    picks = [int(np.argmax(row)) for row in values]
    print(json.dumps({"spent": [wall, cpu], "picks": picks, "logprobs": values}))


if __name__ == "__main__":
    main()
