"""The engine build without a compiler: what is refused, and what a record detects."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.engine import build as engine
from appliance.engine import recipe as recipes
from appliance.engine.recipe import EngineRecipe, EngineRecord, Library, Toolchain
from attest.canonical import dump_model, validate
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, MalformedInput, VerificationError

TOP = "llama_cpp_python-0.3.36"
ROOT = f"{TOP}/vendor/llama.cpp"
BINDINGS = f"{TOP}/llama_cpp/llama_cpp.py"


def quiet(text: str, fraction: float | None) -> None:
    """A progress callback that shows nothing."""


def archive(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """A tar.gz with the engine's two wanted paths, then `members`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in [(f"{ROOT}/CMakeLists.txt", b"project()\n"), (BINDINGS, b"x = 1\n"), *members]:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A link as a tar member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def recipe() -> EngineRecipe:
    """The reference recipe of this release."""
    return engine.load_recipe(recipes.recipe_path())


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

    def test_pinned_patches_are_the_ones_beside_the_recipe(self, recipe: EngineRecipe) -> None:
        for patch in recipe.patches:
            assert engine.read_patch(recipes.recipe_path().parent, patch)

    def test_comments_do_not_change_the_digest(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        copy = tmp_path / "recipe.toml"
        copy.write_text("# another comment\n" + recipes.recipe_path().read_text("utf-8"), "utf-8")
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

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(MalformedInput, match="found none"):
            engine.load_recipe(tmp_path / "absent.toml")
        (tmp_path / "bad.toml").write_text("format = \n", "utf-8")
        with pytest.raises(MalformedInput, match="line 1"):
            engine.load_recipe(tmp_path / "bad.toml")


class TestSource:
    def test_size_and_digest(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        data = archive()
        pinned = recipe.source.model_copy(update={"digest": digest_of(data), "size_bytes": len(data)})
        path = tmp_path / "source.tar.gz"
        path.write_bytes(data)
        assert engine.read_source(path, pinned) == data
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(VerificationError, match="source-digest"):
            engine.read_source(path, pinned)
        path.write_bytes(data + b"x")
        with pytest.raises(VerificationError, match=f"source-size.*{len(data)} bytes.*{len(data) + 1} bytes"):
            engine.read_source(path, pinned)
        with pytest.raises(EnvironmentProblem, match="cannot read"):
            engine.read_source(tmp_path / "absent", pinned)

    def test_wrong_source_is_refused_before_anything_is_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def never(*_: object) -> None:
            raise AssertionError("unpacked or fetched")

        monkeypatch.setattr(engine, "find_tools", lambda recipe: engine.Tools(*["/bin/false"] * 6))
        monkeypatch.setattr(engine, "unpack", never)
        monkeypatch.setattr(engine, "fetch", never)
        wrong = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
        wrong.write_bytes(archive())
        out = tmp_path / "engine" / "reference"
        with pytest.raises(VerificationError, match="source-size"):
            engine.build(recipes.recipe_path(), out, source=wrong, jobs=1, progress=quiet)
        assert not out.exists()
        assert [path.name for path in out.parent.iterdir()] == [".reference.lock"]

    def test_cached_source_is_not_downloaded_again(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        (tmp_path / recipe.source.filename).write_bytes(b"")
        assert engine.fetch(recipe.source, tmp_path, quiet) == tmp_path / recipe.source.filename

    def test_failed_download_says_where_to_put_the_file(
        self, recipe: EngineRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine.sys, "executable", "/bin/false")
        with pytest.raises(EnvironmentProblem, match=f"put it at {tmp_path}.*{recipe.source.digest}"):
            engine.fetch(recipe.source, tmp_path / "cache", quiet)
        assert list((tmp_path / "cache").iterdir()) == []


class TestUnpack:
    def test_takes_the_sources_and_the_bindings(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        engine.unpack(archive((f"{TOP}/docs/x.md", b"x")), recipe.source, tmp_path / "into")
        files = sorted(str(p.relative_to(tmp_path / "into")) for p in (tmp_path / "into").rglob("*") if p.is_file())
        assert files == [BINDINGS, f"{ROOT}/CMakeLists.txt"]

    @pytest.mark.parametrize(
        "member",
        [
            ("../escaped", b"x"),
            (f"{ROOT}/../../../../escaped", b"x"),
            ("/escaped", b"x"),
            ("another-top/escaped", b"x"),
            (f"{ROOT}/./here", b"x"),
            link(f"{ROOT}/symbolic", "../../../escaped"),
            link(f"{ROOT}/inside", "CMakeLists.txt"),
            link(f"{ROOT}/hard", f"{ROOT}/CMakeLists.txt", tarfile.LNKTYPE),
            link(f"{ROOT}/fifo", "", tarfile.FIFOTYPE),
            link(f"{TOP}/unneeded-link", "/etc/passwd"),
        ],
        ids=lambda member: member.name if isinstance(member, tarfile.TarInfo) else member[0],
    )
    def test_refuses(self, recipe: EngineRecipe, tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo) -> None:
        with pytest.raises(VerificationError, match="source-member"):
            engine.unpack(archive(member), recipe.source, tmp_path / "into")
        assert {path.name for path in tmp_path.iterdir()} == {"into"}

    @pytest.mark.parametrize("data", [b"", b"plain text", gzip.compress(b"no tar at all"), archive()[:-30]])
    def test_malformed(self, recipe: EngineRecipe, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(MalformedInput):
            engine.unpack(data, recipe.source, tmp_path / "into")

    def test_incomplete(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        elsewhere = recipe.source.model_copy(update={"bindings": f"{TOP}/absent.py"})
        with pytest.raises(MalformedInput, match=r"absent\.py"):
            engine.unpack(archive(), elsewhere, tmp_path / "into")


OLD = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
PATCH = b"""Why: a test.

--- a/src/file.txt
+++ b/src/file.txt
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
@@ -6,2 +6,3 @@ a function
 six
+six and a half
 seven
"""


class TestPatch:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        (tmp_path / "tree" / "src").mkdir(parents=True)
        (tmp_path / "tree" / "src" / "file.txt").write_bytes(OLD)
        (tmp_path / "outside.txt").write_bytes(OLD)
        return tmp_path / "tree"

    def test_applies(self, tree: Path) -> None:
        engine.apply_patch(tree, PATCH, "a patch")
        expected = OLD.replace(b"two", b"TWO").replace(b"six\n", b"six\nsix and a half\n")
        assert (tree / "src" / "file.txt").read_bytes() == expected

    @pytest.mark.parametrize(
        ("old", "new", "error", "code"),
        [
            (b" one\n", b" uno\n", VerificationError, "patch-context"),
            (b"@@ -1,3 +1,3", b"@@ -2,3 +2,3", VerificationError, "patch-context"),
            (b" seven\n", b" eight\n", VerificationError, "patch-context"),
            (b"/src/file.txt", b"/src/absent.txt", VerificationError, "patch-file"),
            (b"/src/file.txt", b"/../outside.txt", VerificationError, "patch-file"),
            (b"+++ b/src/file.txt", b"+++ b/src/other.txt", MalformedInput, "one and the same"),
            (b"--- a/src/file.txt", b"--- /dev/null", MalformedInput, "one and the same"),
            (b"@@ -1,3 +1,3", b"@@ -1,4 +1,3", MalformedInput, "line of the hunk"),
            (b"@@ -6,2 +6,3", b"@@ -6,2 +5,3", MalformedInput, "line numbers"),
            (b"@@ -6,2 +6,3", b"@@ -2,2 +2,3", MalformedInput, "line numbers"),
            (b"@@ -6,2 +6,3 @@ a function\n", b"", MalformedInput, "expected a hunk"),
            (b"--- a/src/file.txt\n", b"", MalformedInput, "no `---` line"),
        ],
    )
    def test_refuses(self, tree: Path, old: bytes, new: bytes, error: type[Exception], code: str) -> None:
        with pytest.raises(error, match=code):
            engine.apply_patch(tree, PATCH.replace(old, new), "a patch")
        assert (tree.parent / "outside.txt").read_bytes() == OLD
        assert (tree / "src" / "file.txt").read_bytes() == OLD

    def test_pinned_digest(self, recipe: EngineRecipe, tmp_path: Path) -> None:
        pinned = recipe.patches[0]
        changed = tmp_path / pinned.file
        changed.parent.mkdir()
        changed.write_bytes((recipes.recipe_path().parent / pinned.file).read_bytes() + b"\n")
        with pytest.raises(VerificationError, match="patch-digest"):
            engine.read_patch(tmp_path, pinned)
        with pytest.raises(MalformedInput, match="cannot read its patch"):
            engine.read_patch(tmp_path / "elsewhere", pinned)


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
            recipes.recipe_path(), built, source=None, jobs=1, progress=lambda text, fraction: said.append(text)
        )
        assert record == engine.load_record(built)
        assert said == ["the reference engine is up to date"]

    @pytest.mark.parametrize("change", ["library", "recipe", "revision"])
    def test_any_difference_builds_again(self, built: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
        class Started(Exception):  # noqa: N818
            pass

        def started(recipe: EngineRecipe) -> engine.Tools:
            raise Started

        monkeypatch.setattr(engine, "find_tools", started)
        recipe = recipes.recipe_path("stock") if change == "recipe" else recipes.recipe_path()
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


class TestEnvironment:
    def test_names_every_missing_tool_and_how_to_get_it(
        self, recipe: EngineRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(engine.sysconfig, "get_path", lambda name: str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(EnvironmentProblem, match=r"cc, c\+\+, strip, readelf, cmake, ninja.*g\+\+.*pip install"):
            engine.find_tools(recipe)
        for name in ("cc", "strip", "readelf", "cmake", "ninja"):
            (tmp_path / name).write_text("#!/bin/sh\n", "ascii")
            (tmp_path / name).chmod(0o755)
        with pytest.raises(EnvironmentProblem) as caught:
            engine.find_tools(recipe)
        assert "needs c++, not found: install a C++ compiler" in str(caught.value)
        assert "pip" not in str(caught.value)

    def test_another_architecture(self, recipe: EngineRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine.platform, "machine", lambda: "riscv64")
        with pytest.raises(EnvironmentProblem, match=r"x86_64.*riscv64"):
            engine.find_tools(recipe)

    def test_cpu_without_an_instruction_set(self, built: Path) -> None:
        record = engine.load_record(built)
        flags = "processor\t: 0\nflags\t\t: fpu sse4_2 avx avx2 fma f16c bmi2\n"
        recipes.require_cpu(record, flags)
        with pytest.raises(EnvironmentProblem, match="a CPU with avx2, bmi2,"):
            recipes.require_cpu(record, flags.replace(" avx2", "").replace("bmi2", "bmi1"))
        with pytest.raises(EnvironmentProblem):
            recipes.require_cpu(record, "")

    def test_scrubbed_shell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS", "CC", "CPATH", "LD_PRELOAD", "CMAKE_TOOLCHAIN_FILE", "MAKEFLAGS"):
            monkeypatch.setenv(name, "leaked")
        shell = engine._Shell(tmp_path, tmp_path / "log")
        text = shell.run("printing", ["env"])
        assert "leaked" not in text
        names = {line.partition("=")[0] for line in text.splitlines()}
        assert names - {"PWD", "SHLVL", "_"} == set(shell.environment)
        assert set(shell.environment) & os.environ.keys() >= {"PATH", "HOME"}

    def test_failed_command_shows_its_last_lines(self, tmp_path: Path) -> None:
        shell = engine._Shell(tmp_path, tmp_path / "log")
        with pytest.raises(EnvironmentProblem, match=r"compiling failed with status 3.*\nlast words"):
            shell.run("compiling", ["sh", "-c", "echo last words; exit 3"])
        assert "last words" in (tmp_path / "log").read_text("utf-8")

    def test_interruption_stops_the_command(self, tmp_path: Path) -> None:
        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        shell = engine._Shell(tmp_path, tmp_path / "log")
        with pytest.raises(KeyboardInterrupt):
            shell.run("compiling", ["sh", "-c", f"echo $$; exec sleep 600 > {tmp_path / 'open'}"], interrupt)


def test_another_build_of_the_same_engine_waits(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        engine._locked(tmp_path / "reference", quiet),
        pytest.MonkeyPatch.context() as patched,
    ):

        def second(file: object, operation: int) -> None:
            if operation & engine.fcntl.LOCK_NB:
                raise BlockingIOError

        patched.setattr(engine.fcntl, "flock", second)
        with engine._locked(tmp_path / "reference", lambda text, fraction: said.append(text)):
            pass
    assert said == ["waiting for another build of this engine"]


SMALL = {
    "CMakeLists.txt": """
        cmake_minimum_required(VERSION 3.14)
        project(small C CXX)
        option(GGML_NATIVE "" ON)
        add_compile_definitions(COMMIT="${LLAMA_BUILD_COMMIT}")
        if (SMALL_PATH)
            add_compile_definitions(WHERE="${CMAKE_BINARY_DIR}")
        endif()
        add_subdirectory(ggml/src)
        add_subdirectory(src)
    """,
    "ggml/src/CMakeLists.txt": """
        add_library(ggml-base STATIC base.c)
        add_library(ggml-cpu STATIC cpu.c)
        add_library(ggml STATIC ggml.c)
        target_link_libraries(ggml ggml-cpu ggml-base)
    """,
    "ggml/src/base.c": """
        #ifndef WHERE
        #define WHERE __FILE__
        #endif
        const char * ggml_where(void) { return WHERE; }
        const char * ggml_commit(void) { return COMMIT; }
    """,
    "ggml/src/cpu.c": "#include <math.h>\nfloat ggml_exp(float x) { return expf(x); }",
    "ggml/src/ggml.c": "void ggml_backend_load(void) {}",
    "src/CMakeLists.txt": "add_library(llama STATIC llama.cpp)\ntarget_link_libraries(llama ggml)",
    "src/llama.cpp": """#include <string>
#define KERNELS "many"
extern "C" const char * llama_print_system_info(void) {
    static const std::string text = std::string("CPU : KERNELS = ") + KERNELS + " | ";
    return text.c_str();
}
extern "C" void llama_decode(void) {}
""",
}
SMALL_PATCH = b"""--- a/src/llama.cpp
+++ b/src/llama.cpp
@@ -1,3 +1,3 @@
 #include <string>
-#define KERNELS "many"
+#define KERNELS "one"
 extern "C" const char * llama_print_system_info(void) {
"""


class TestBuild:
    """The whole build, with the real compiler, of a source that is small and otherwise like the engine's."""

    @pytest.fixture
    def small(self, recipe: EngineRecipe, tmp_path: Path) -> tuple[Path, Path]:
        """A recipe file and its source distribution."""
        try:
            engine.find_tools(recipe)
        except EnvironmentProblem as problem:
            pytest.skip(str(problem))
        names = '@ctypes_function("llama_decode", [], None)\n@ctypes_function(\n    "ggml_commit", [], None)\n'
        data = archive(*[(f"{ROOT}/{name}", text.encode()) for name, text in SMALL.items()], (BINDINGS, names.encode()))
        source = tmp_path / "small.tar.gz"
        source.write_bytes(data)
        (tmp_path / "small.patch").write_bytes(SMALL_PATCH)
        path = tmp_path / "small.toml"
        path.write_text(
            f"""
            format = "vitrine/engine-recipe/v1"
            name = "small"
            profile = "small"
            architecture = "{recipe.architecture}"
            instructions = []
            patches = [{{file = "small.patch", digest = "{digest_of(SMALL_PATCH)}"}}]
            definitions = {{GGML_NATIVE = "OFF", LLAMA_BUILD_COMMIT = "0c1e57098", CMAKE_BUILD_TYPE = "Release"}}
            compile.flags = ["-fPIC"]
            link.flags = {list(recipe.link.flags)}
            link.exports = {list(recipe.link.exports)}
            link.hidden = ["ggml_backend_load"]
            link.needed = {list(recipe.link.needed)}
            environment = {{}}
            [source]
            name = "small"
            version = "1"
            filename = "small.tar.gz"
            digest = "{digest_of(data)}"
            size_bytes = {len(data)}
            root = "{ROOT}"
            bindings = "{BINDINGS}"
            upstream_commit = "0c1e57098"
            """,
            "utf-8",
        )
        return path, source

    def test_two_folders_give_the_same_bytes(
        self, small: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe, source = small
        said: list[tuple[str, float | None]] = []
        first, second = tmp_path / "a" / "out", tmp_path / "a longer one, with a space" / "b=c" / "out"
        record = engine.build(
            recipe, first, source=source, jobs=1, progress=lambda text, fraction: said.append((text, fraction))
        )
        monkeypatch.setenv("CFLAGS", "-O0 -g")
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        assert engine.build(recipe, second, source=source, jobs=2, progress=quiet) == record
        for name in (engine.LIBRARY, engine.RECORD):
            assert (first / name).read_bytes() == (second / name).read_bytes()
        assert engine.load_record(first) == record
        assert record.system_info == "CPU : KERNELS = one"
        assert set(record.libraries[0].needed) <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
        assert str(tmp_path) not in (first / engine.RECORD).read_text("utf-8")
        assert sorted(path.name for path in first.iterdir()) == [engine.LIBRARY, engine.RECORD]
        assert sorted(path.name for path in first.parent.iterdir()) == [".out.lock", "out", "out.log"]
        assert [text for text, _ in said][:2] == ["unpacking the source", "configuring"]
        assert any(text.startswith("compiling ") and fraction and 0 < fraction < 1 for text, fraction in said)
        assert said[-1] == ("the small engine is built", 1.0)

    @pytest.mark.parametrize(
        ("old", "new", "error", "code"),
        [
            (
                'CMAKE_BUILD_TYPE = "Release"',
                'GGML_RENAMED = "ON"',
                VerificationError,
                "definition-unused.*GGML_RENAMED",
            ),
            ('upstream_commit = "0c1e57098"', 'upstream_commit = "111111111"', VerificationError, "library-commit"),
            ('link.exports = ["llama_*", "ggml_*"', 'link.exports = ["llama_*"', VerificationError, "library-bindings"),
            ("'libm.so.6'", "'libz.so.1'", VerificationError, "library-needed"),
            ("'-Wl,--as-needed', ", "'-Wl,-rpath,x', ", VerificationError, "library-dynamic"),
            ('"-fPIC"', '"-fPIC", "-Dllama_decode=1"', EnvironmentProblem, "compiling the engine failed"),
            ('CMAKE_BUILD_TYPE = "Release"', 'SMALL_PATH = "ON"', VerificationError, "library-path"),
        ],
    )
    def test_gates_leave_the_earlier_build_alone(
        self, small: tuple[Path, Path], tmp_path: Path, old: str, new: str, error: type[Exception], code: str
    ) -> None:
        recipe, source = small
        out = tmp_path / "out"
        out.mkdir()
        (out / engine.LIBRARY).write_bytes(b"an earlier build")
        text = recipe.read_text("utf-8").replace(
            str(["llama_*", "ggml_*", "gguf_*"]), '["llama_*", "ggml_*", "gguf_*"]'
        )
        assert old in text
        recipe.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(error, match=code):
            engine.build(recipe, out, source=source, jobs=2, progress=quiet)
        assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(engine.LIBRARY, b"an earlier build")]
        assert not out.with_name(".out.building").exists()
