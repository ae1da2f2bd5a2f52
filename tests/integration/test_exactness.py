"""The numerics contract on real engines: a row of logits has the same bits whatever happens around its sample.

Here the short matrix; `python -m tests.conformance.exactness` runs all of it. The engines are those that are built;
the stock one has to fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.gguf import read_header
from tests.tools import random_models
from tests.tools.architectures import EVERY, FAMILIES
from tests.tools.exactness import cells
from tests.tools.exactness.plan import Cell, Copy, Decode, Threads, Trim, stories
from tests.tools.exactness.verdict import Verdict, examine
from tests.tools.recurrent import RECURRENT

ENGINES = Path(__file__).parents[2] / "build" / "engine"
FEW = ("llama", "qwen3moe", "deepseek2", "gemma2", "gpt-oss")
"""What the reference engine runs here: dense, experts, latent attention, windows, sinks."""
TYPES = (
    ("F32", "F16", "BF16", "Q8_0"),
    ("Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"),
    ("Q5_1", "Q5_0", "Q4_1", "Q4_0"),
    ("IQ4_NL", "IQ4_XS", "TQ2_0", "Q2_0"),
)
"""One of each kernel; the others, whose quantisers are slow, are left to the whole matrix."""

pytestmark = pytest.mark.engine


def built(profile: str) -> Path:
    if not (ENGINES / profile / "record.json").exists():
        pytest.skip(f"no engine in build/engine/{profile}: make engines")
    return ENGINES / profile


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def all_exact(verdicts: list[Verdict]) -> None:
    assert verdicts
    for verdict in verdicts:
        about = f"{verdict.architecture} {verdict.type} {verdict.kv}: {verdict.error or verdict.differing}"
        assert verdict.word == "exact", f"{about}, largest difference {verdict.largest}"


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"llama-wide"}))
def test_every_architecture_is_exact_on_the_default_engine(name: str, models: Path) -> None:
    all_exact(examine(built("x86-64-v3"), name, ["Q4_K_M"], models))


@pytest.mark.parametrize("types", TYPES, ids="-".join)
def test_every_kind_of_type_is_exact_on_the_default_engine(types: tuple[str, ...], models: Path) -> None:
    all_exact(examine(built("x86-64-v3"), "llama", types, models))


@pytest.mark.parametrize(
    ("profile", "name"), [*(("reference", name) for name in FEW), ("portable", "llama"), ("portable", "qwen3moe")]
)
def test_the_other_engines_are_exact(profile: str, name: str, models: Path) -> None:
    all_exact(examine(built(profile), name, ["Q4_K_M"], models))


@pytest.mark.parametrize("profile", ["x86-64-v3", "reference"])
def test_the_cache_may_be_of_any_type(profile: str, models: Path) -> None:
    all_exact(examine(built(profile), "llama", ["Q4_K_M"], models, kv=["q8_0", "f32"]))


@pytest.mark.parametrize("profile", ["x86-64-v3", "reference", "portable"])
def test_threads_change_nothing(profile: str, models: Path) -> None:
    all_exact(examine(built(profile), "llama", ["Q4_K_M"], models, cells="threads"))


@pytest.mark.parametrize("profile", ["x86-64-v3", "reference", "portable"])
def test_another_process_has_the_same_bits(profile: str, models: Path) -> None:
    first, second = (examine(built(profile), "llama", ["Q4_0", "F16"], models, cells="none") for _ in range(2))
    assert [verdict.fingerprint for verdict in first] == [verdict.fingerprint for verdict in second]
    assert len({verdict.fingerprint for verdict in first}) == 2, "two models with the same logits show nothing"


@pytest.mark.parametrize("name", ["llama", "qwen3moe"])
def test_the_matrix_sees_what_the_stock_engine_does(name: str, models: Path) -> None:
    for verdict in examine(built("stock"), name, ["F16", "Q4_K_M"], models):
        assert verdict.word == "differs", verdict
        assert verdict.done, "a difference does not end the matrix"


def test_a_model_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("llama", "deepseek2"):
        paths = [tmp_path / f"{name}-{i}" for i in range(2)]
        for path in paths:
            random_models.make(path, FAMILIES[name])
        assert paths[0].read_bytes() == paths[1].read_bytes()
        random_models.make(paths[1], FAMILIES[name], seed=2)
        assert paths[0].read_bytes() != paths[1].read_bytes()
        header = read_header(paths[0].read_bytes())
        assert header.architecture == FAMILIES[name].architecture
        assert {tensor.name for tensor in header.tensors} == {tensor for tensor, _ in FAMILIES[name].tensors}


def test_every_cell_compares_rows_and_keeps_to_its_context() -> None:
    """A plan that decodes a token into a slot which does not hold the ones before would show nothing."""
    texts = stories(512)
    plans = [*cells.full(texts), *cells.quick(texts), *cells.threads(texts)]
    assert len({cell.name for cell in cells.full(texts)}) == len(cells.full(texts))
    assert cells.uncut(plans) and len(cells.uncut(plans)) < len(plans)
    for cell in plans:
        follow(cell)
    assert not RECURRENT.keys() & FAMILIES.keys()


def follow(cell: Cell) -> None:
    """Walk a plan's steps as a context would, and refuse what a context would."""
    held: list[list[tuple[int, int]]] = [[] for _ in range(cell.slots)]
    texts, wanted = stories(512), 0
    for step in cell.steps:
        match step:
            case Decode(parts):
                assert len({part.slot for part in parts}) == len(parts), cell.name
                for part in parts:
                    assert part.start == len(held[part.slot]) and part.start <= part.wanted < part.stop, (
                        cell.name,
                        part,
                    )
                    held[part.slot] += [(part.story, place) for place in range(part.start, part.stop)]
                    assert len(held[part.slot]) <= cell.slot_tokens, cell.name
                    if part.story >= 0:
                        wanted += part.stop - part.wanted
                        mine = [
                            texts[story][place] if story >= 0 else None
                            for story, place in held[part.slot][: part.start]
                        ]
                        assert mine == texts[part.story][: part.start], (cell.name, part)
            case Copy(source, target):
                held[target] = list(held[source])
            case Trim(slot, length):
                assert length <= len(held[slot]), cell.name
                del held[slot][length:]
            case _:
                assert isinstance(step, Threads)
    assert wanted, cell.name
