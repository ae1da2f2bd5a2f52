"""`appliance run --dry-run`: what a run would do, as text or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from appliance.dry_run import dry_run
from appliance.forecast import Forecast, MemoryPlan, SuitePlan
from appliance.prepare import Inputs
from appliance.progress import Reporter
from appliance.redact import Withheld
from appliance.relay import WorkerFailure
from attest import console

MIB = 1 << 20
NAMED = 5
"""Samples of one kind of trouble that are named in the text; the JSON names all."""
HEAD = ("model", "suite", "samples", "prompts", "tokens", "least", "median", "most", "requests", "answers")


def show(inputs: Inputs, *, shown: int, as_json: bool) -> None:
    """Print what a run of `inputs` would do, and the prompts of the first `shown` samples of each suite."""
    try:
        with Reporter() as progress:
            forecast = dry_run(inputs, progress, shown=shown)
    except (WorkerFailure, Withheld) as error:
        if error.words:  # standard error quotes no prompts, and no folder keeps them
            console.OUT.print(console.printable(error.words))
        raise
    if as_json:
        console.print_json(forecast.model_dump(mode="json"))
        return
    for line in _head(forecast):
        console.OUT.print(line)
    console.OUT.print()
    console.print_rows([HEAD, *map(_row, forecast.suites)])
    console.OUT.print("tokens, least, median, most: of the first prompts; requests, answers: at most, in tokens")
    for suite in forecast.suites:
        console.OUT.print()
        for line in _suite(suite):
            console.OUT.print(console.printable(line))


def _head(forecast: Forecast) -> Iterator[str]:
    yield f"job {forecast.job}  {forecast.job_digest}"
    origin = "as given" if forecast.lock_given else "pinned just now: give a reviewed one with --lock"
    yield f"lock {forecast.lock_digest}  {origin}"
    yield f"seed {forecast.seed}  {forecast.samples} samples"
    yield "attempt none: nothing was registered, signed or written, and no lab was opened"
    yield f"schedule {forecast.schedule}"
    for number, stage in enumerate(forecast.stages, 1):
        load = f"load {', '.join(stage.load)}" if stage.load else "load nothing"
        keep = f", keep {', '.join(stage.keep)}" if stage.keep else ""
        runs = ", ".join(f"{suite} on {model}" for model, suite in stage.suites)
        yield f"  {number}. {load}{keep}; run {runs}"
    if forecast.memory is not None:
        yield _memory(forecast.memory)


def _memory(memory: MemoryPlan) -> str:
    files, caches, workers = (
        ", ".join(f"{name} {each[name] / MIB:.0f}" for name in memory.together)
        for each in (memory.files, memory.caches, memory.workers)
    )
    return (
        f"memory {memory.needed / MIB:.0f} MiB at most, of {memory.available / MIB:.0f} MiB: model files "
        f"{files}, caches {caches}, their workers {workers}, the rest controller and eval worker"
    )


def _row(suite: SuitePlan) -> tuple[str, ...]:
    prompts = suite.prompts
    counts = (prompts.prompts, prompts.total, prompts.least, prompts.median, prompts.most) if prompts else (0,) * 5
    requests = ", ".join(f"{role} {count}" for role, count in suite.requests.items())
    return (suite.model, suite.suite, str(suite.samples), *map(str, counts), requests, str(suite.decode_tokens))


def _suite(suite: SuitePlan) -> Iterator[str]:
    """Its rows, its troubles and its first prompts."""
    roles = ", ".join(f"{role} {model}" for role, model in suite.roles.items())
    yield f"{suite.suite} on {suite.model}: {suite.solver}; {roles}"
    order = "in the file's order" if suite.shuffle is None else f"in the order of seed {suite.shuffle}"
    epochs = f", {suite.epochs} times each" if suite.epochs > 1 else ""
    yield f"  rows {'all' if suite.limit is None else f'at most {suite.limit}'}, {order}{epochs}"
    if suite.strategies:
        yield f"  strategies {', '.join(suite.strategies)}"
    if suite.sampling is not None:
        yield f"  sampling {', '.join(f'{name} {value}' for name, value in suite.sampling.model_dump().items())}"
    for code, count in Counter(trouble.code for trouble in suite.troubles).items():
        named = [trouble for trouble in suite.troubles if trouble.code == code]
        yield f"  {code}: {count} of {suite.samples} samples"
        yield from (f"    {_indented(each.id)}: {_indented(each.message)}" for each in named[:NAMED])
        if count > NAMED:
            yield f"    and {count - NAMED} more: --json names them"
    for preview in suite.shown:
        for ask in preview.asks:
            label = f" ({ask.label})" if ask.label else ""
            options = f", options of {' '.join(map(str, ask.option_tokens))} tokens" if ask.option_tokens else ""
            yield f"  {_indented(preview.id)}  {ask.role}{_indented(label)}: {ask.tokens} tokens{options}"
            if ask.shown is not None:
                yield f"    {_indented(ask.shown.text)}"


def _indented(text: str) -> str:
    """No line of it looks like one of ours."""
    return text.replace("\n", "\n    ")
