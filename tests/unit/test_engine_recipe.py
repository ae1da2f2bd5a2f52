"""Recipes and records of engines: what is refused, and what a record detects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.engine import build as engine
from appliance.engine import recipe as recipes
from appliance.engine import source as sources
from appliance.engine.recipe import EngineRecipe, EngineRecord, Library, Toolchain
from attest.canonical import dump_model, validate
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError
from tests.tools.small_engine import reference


@pytest.fixture
def recipe() -> EngineRecipe:
    """The reference recipe of this release."""
    return reference()


def variant(recipe: EngineRecipe, change: Callable[[dict[str, Any]], object]) -> EngineRecipe:
    """The recipe after `change` was made to its JSON."""
    value = recipe.model_dump(mode="json")
    change(value)
    return validate(EngineRecipe, value, "engine recipe")


class TestRecipe:
    def test_profiles_differ_in_their_kernels_and_nothing_else(self, recipe: EngineRecipe) -> None:
        stock = engine.load_recipe(recipes.recipe_path("stock"))
        differ = {k for k in recipe.definitions if recipe.definitions[k] != stock.definitions[k]}
        assert differ == {"GGML_LLAMAFILE", "GGML_CPU_REPACK"}
        assert recipe.definitions.keys() == stock.definitions.keys()
        assert [p.file for p in recipe.patches] == ["patches/reference-kernels.patch"]
        assert stock.patches == ()
        assert (recipe.source, recipe.compile, recipe.link) == (stock.source, stock.compile, stock.link)
        assert recipe.digest() != stock.digest()

    @pytest.mark.parametrize(
        "path", sorted(recipes.recipe_path("reference").parent.glob("*.toml")), ids=lambda path: path.stem
    )
    def test_pinned_files_are_the_ones_beside_the_recipe(self, path: Path) -> None:
        recipe = recipes.load_recipe(path)
        assert recipe.profile == path.stem
        for file in (*recipe.patches, *(recipe.additions or ())):
            assert sources.read_patch(path.parent, file)

    def test_comments_do_not_change_the_digest(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        copy = tmp_path / "recipe.toml"
        copy.write_text("# another comment\n" + recipes.recipe_path("reference").read_text("utf-8"), "utf-8")
        assert engine.load_recipe(copy).digest() == recipe.digest()

    @pytest.mark.parametrize(
        ("change", "names"),
        [
            (lambda v: v.update(surprise=1), "surprise"),
            (lambda v: v.pop("patches"), "patches"),
            (lambda v: v.update(format="vitrine/engine-recipe/v2"), "format"),
            (lambda v: v["source"].update(size_bytes="76589250"), "size_bytes"),
            (lambda v: v["source"].update(root="../vendor"), "root"),
            (lambda v: v["source"].update(root="/vendor"), "root"),
            (lambda v: v["patches"][0].update(file="../../x.patch"), "file"),
            (lambda v: v["source"].update(digest="832db069"), "digest"),
            (lambda v: v["definitions"].update({"GGML_BLAS": "ON;-DX=1"}), "GGML_BLAS"),
            (lambda v: v["compile"]["flags"].append("-I/usr/include"), "flags"),
            (lambda v: v["definitions"].update(GGML_AVX2="OFF"), "GGML_NATIVE=OFF"),
            (lambda v: v["definitions"].update(GGML_NATIVE="ON"), "GGML_NATIVE=OFF"),
        ],
    )
    def test_strict(self, recipe: EngineRecipe, change: Callable[[dict[str, Any]], object], names: str) -> None:
        with pytest.raises(MalformedInput, match=names):
            variant(recipe, change)

    @pytest.mark.parametrize(
        ("change", "names"),
        [
            (lambda v: v.update(instructions=["sse2"]), "for each architecture"),
            (lambda v: v["instructions"].pop("aarch64"), "expected instructions for"),
            (lambda v: v.update(architecture="x86_64"), "expected instructions for"),
            (lambda v: v.update(architecture=[]), "architecture"),
            (lambda v: v.update(architecture=["x86_64", "riscv64"]), "architecture"),
            (lambda v: v["instructions"].update(x86_64=["avx2"]), "switch on exactly"),
            (lambda v: v["gates"]["forbidden_instructions"].append("fm(add"), "regular expression"),
            (lambda v: v["gates"]["forbidden_instructions"].append("fm add"), "forbidden_instructions"),
            (lambda v: v["gates"]["imports"].update({"libm.so.6": ["exp*"]}), "imports"),
            (lambda v: v["additions"][0].update(file="/etc/passwd"), "file"),
        ],
    )
    def test_strict_about_architectures_and_gates(self, change: Callable[[dict[str, Any]], object], names: str) -> None:
        portable = recipes.load_recipe(recipes.recipe_path("portable"))
        assert variant(portable, lambda v: None) == portable
        with pytest.raises(MalformedInput, match=names):
            variant(portable, change)

    def test_portable_differs_from_reference_in_what_makes_it_portable(self, recipe: EngineRecipe) -> None:
        portable = recipes.load_recipe(recipes.recipe_path("portable"))
        assert portable.architectures() == ("x86_64", "aarch64")
        assert (portable.source, portable.environment) == (recipe.source, recipe.environment)
        assert set(recipe.compile.flags) < set(portable.compile.flags)
        assert not [name for name in recipes.OPTION_OF.values() if portable.definitions.get(name, "OFF") != "OFF"]
        assert recipe.patches[0] in portable.patches
        assert portable.gates is not None

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(MalformedInput, match="found none"):
            engine.load_recipe(tmp_path / "absent.toml")
        (tmp_path / "bad.toml").write_text("format = \n", "utf-8")
        with pytest.raises(MalformedInput, match="line 1"):
            engine.load_recipe(tmp_path / "bad.toml")


LIBRARY_BYTES = b"\x7fELF, or so it says" * 100


@pytest.fixture
def built(recipe: EngineRecipe, tmp_path: Path) -> Path:
    """A folder with a record of the reference recipe and a stand-in for its library."""
    out = tmp_path / "reference"
    out.mkdir()
    (out / engine.LIBRARY).write_bytes(LIBRARY_BYTES)
    line = "as reported"
    record = EngineRecord(
        format="vitrine/engine-record/v1",
        builder_revision=engine.BUILDER_REVISION,
        name=recipe.name,
        profile=recipe.profile,
        recipe_digest=recipe.digest(),
        source_digest=recipe.source.digest,
        upstream_commit=recipe.source.upstream_commit,
        patch_digests=tuple(patch.digest for patch in recipe.patches),
        toolchain=Toolchain(c_compiler=line, cxx_compiler=line, linker=line, libc=line, cmake=line, ninja=line),
        definitions=recipe.definitions,
        compile_flags=recipe.compile.flags,
        link_flags=recipe.link.flags,
        architecture=recipe.architecture,
        instructions=recipe.instructions,
        system_info="CPU : AVX2 = 1",
        environment=recipe.environment,
        libraries=(
            Library(
                name=engine.LIBRARY,
                digest=digest_of(LIBRARY_BYTES),
                size_bytes=len(LIBRARY_BYTES),
                needed=("libc.so.6",),
            ),
        ),
    )
    (out / engine.RECORD).write_bytes(dump_model(record))
    return out


class TestRecord:
    def test_loads(self, built: Path, recipe: EngineRecipe) -> None:
        assert engine.load_record(built).recipe_digest == recipe.digest()

    @pytest.mark.parametrize("at", [0, 777, len(LIBRARY_BYTES) - 1])
    def test_detects_one_flipped_bit_in_the_library(self, built: Path, at: int) -> None:
        changed = bytearray(LIBRARY_BYTES)
        changed[at] ^= 1
        (built / engine.LIBRARY).write_bytes(changed)
        with pytest.raises(VerificationError, match="library-digest"):
            engine.load_record(built)

    def test_detects_a_missing_library(self, built: Path) -> None:
        (built / engine.LIBRARY).unlink()
        with pytest.raises(VerificationError, match="library-missing"):
            engine.load_record(built)

    def test_refuses_a_record_in_another_form(self, built: Path) -> None:
        path = built / engine.RECORD
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        with pytest.raises(MalformedInput, match="canonical"):
            engine.load_record(built)
        path.write_bytes(data.replace(b"engine-record/v1", b"engine-record/v9"))
        with pytest.raises(MalformedInput, match="format"):
            engine.load_record(built)

    def test_says_how_to_build_an_absent_engine(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentProblem, match="appliance engine build"):
            engine.load_record(tmp_path)

    def test_finished_build_is_reused(self, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        said: list[str] = []
        record = engine.build(
            recipes.recipe_path("reference"),
            built,
            source=None,
            jobs=1,
            progress=lambda text, fraction: said.append(text),
        )
        assert record == engine.load_record(built)
        assert said == ["the reference engine is up to date"]

    @pytest.mark.parametrize("change", ["library", "recipe", "revision"])
    def test_any_difference_builds_again(self, built: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
        class Started(Exception):  # noqa: N818
            pass

        def started(recipe: EngineRecipe, target: str | None) -> None:
            raise Started

        monkeypatch.setattr(engine, "find_tools", started)
        recipe = recipes.recipe_path("stock") if change == "recipe" else recipes.recipe_path("reference")
        if change == "library":
            (built / engine.LIBRARY).write_bytes(b"changed")
        if change == "revision":
            monkeypatch.setattr(engine, "BUILDER_REVISION", engine.BUILDER_REVISION + 1)
        said: list[str] = []
        with pytest.raises(Started):
            engine.build(recipe, built, source=None, jobs=1, progress=lambda text, fraction: said.append(text))
        assert [text.partition(":")[0] for text in said] == (
            ["building again, because engine/library-digest"] if change == "library" else []
        )


class TestCpu:
    def test_without_an_instruction_set(self, built: Path) -> None:
        record = engine.load_record(built)
        flags = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2\n"
        recipes.require_cpu(record, flags)
        with pytest.raises(EnvironmentProblem, match="a CPU with avx2, bmi2,"):
            recipes.require_cpu(record, flags.replace(" avx2", "").replace("bmi2", "bmi1"))
        with pytest.raises(EnvironmentProblem):
            recipes.require_cpu(record, "")

    def test_of_another_architecture(self, built: Path) -> None:
        record = engine.load_record(built)
        arm = "processor\t: 0\nFeatures\t: fp asimd evtstrm\nCPU implementer\t: 0x41\n"
        with pytest.raises(EnvironmentProblem, match=r"built for x86_64.*'flags'"):
            recipes.require_cpu(record, arm)
        portable = record.model_copy(update={"architecture": "aarch64", "instructions": ("asimd",)})
        recipes.require_cpu(portable, arm)
        with pytest.raises(EnvironmentProblem, match="a CPU with asimd,"):
            recipes.require_cpu(portable, arm.replace("asimd", "neon"))
        with pytest.raises(EnvironmentProblem, match=r"built for aarch64.*'Features'"):
            recipes.require_cpu(portable, "flags\t\t: sse2 asimd\n")
