"""The engine build: its tools, its environment, and the whole of it on a small source with the real compiler."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import pytest

from appliance.engine import build as engine
from appliance.engine import tools
from appliance.engine.recipe import Architecture, EngineRecipe, load_recipe, recipe_path
from attest.digest import digest_of
from attest.errors import EnvironmentProblem, Unsupported, VerificationError
from tests.tools.small_engine import quiet, reference, write_small

OTHER: Architecture = "x86_64" if platform.machine() == "aarch64" else "aarch64"


@pytest.fixture
def recipe() -> EngineRecipe:
    """The reference recipe of this release."""
    return reference()


@pytest.fixture
def portable() -> EngineRecipe:
    """The recipe that is for two architectures."""
    return load_recipe(recipe_path("portable"))


class TestEnvironment:
    @pytest.fixture
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An x86-64 machine on which `tmp_path` is the only folder of programs."""
        monkeypatch.setattr(tools.platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(tools.sysconfig, "get_path", lambda name: str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    @staticmethod
    def install(folder: Path, *names: str) -> None:
        for name in names:
            (folder / name).write_text("#!/bin/sh\n", "ascii")
            (folder / name).chmod(0o755)

    def test_names_every_missing_tool_and_how_to_get_it(self, recipe: EngineRecipe, elsewhere: Path) -> None:
        every = r"cc, c\+\+, strip, readelf, objdump, cmake, ninja.*g\+\+.*pip install"
        with pytest.raises(EnvironmentProblem, match=every):
            engine.find_tools(recipe, None)
        self.install(elsewhere, "cc", "strip", "readelf", "objdump", "cmake", "ninja")
        with pytest.raises(EnvironmentProblem) as caught:
            engine.find_tools(recipe, None)
        assert "needs c++, not found: install a C++ compiler" in str(caught.value)
        assert "pip" not in str(caught.value)

    def test_cross_compiler_by_name(self, portable: EngineRecipe, elsewhere: Path) -> None:
        self.install(elsewhere, "cc", "c++", "strip", "readelf", "objdump", "cmake", "ninja")
        assert engine.find_tools(portable, None) == engine.find_tools(portable, "x86_64")
        assert engine.find_tools(portable, None)[1].emulator is None
        with pytest.raises(EnvironmentProblem, match=r"aarch64-linux-gnu-gcc.*apt install g\+\+-aarch64.*qemu-user"):
            engine.find_tools(portable, "aarch64")
        names = ["aarch64-linux-gnu-" + name for name in ("gcc", "g++", "strip", "readelf", "objdump")]
        self.install(elsewhere, *names, "qemu-aarch64")
        architecture, found = engine.find_tools(portable, "aarch64")
        assert architecture == "aarch64"
        assert [Path(path).name for path in found[:5]] == names
        assert Path(found.emulator or "").name == "qemu-aarch64"

    def test_another_architecture(
        self, recipe: EngineRecipe, portable: EngineRecipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(Unsupported, match="x86_64, found aarch64"):
            engine.find_tools(recipe, "aarch64")
        monkeypatch.setattr(tools.platform, "machine", lambda: "riscv64")
        with pytest.raises(EnvironmentProblem, match=r"x86_64.*riscv64"):
            engine.find_tools(recipe, None)
        with pytest.raises(EnvironmentProblem, match=r"x86_64 or aarch64.*riscv64.*--target"):
            engine.find_tools(portable, None)

    def test_scrubbed_shell(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS", "CC", "CPATH", "LD_PRELOAD", "CMAKE_TOOLCHAIN_FILE", "MAKEFLAGS"):
            monkeypatch.setenv(name, "leaked")
        shell = tools.Shell(tmp_path, tmp_path / "log")
        text = shell.run("printing", ["env"])
        assert "leaked" not in text
        names = {line.partition("=")[0] for line in text.splitlines()}
        assert names - {"PWD", "SHLVL", "_"} == set(shell.environment)
        assert set(shell.environment) & os.environ.keys() >= {"PATH", "HOME"}

    def test_failed_command_shows_its_last_lines(self, tmp_path: Path) -> None:
        shell = tools.Shell(tmp_path, tmp_path / "log")
        with pytest.raises(EnvironmentProblem, match=r"compiling failed with status 3.*\nlast words"):
            shell.run("compiling", ["sh", "-c", "echo last words; exit 3"])
        assert "last words" in (tmp_path / "log").read_text("utf-8")

    def test_interruption_stops_the_command(self, tmp_path: Path) -> None:
        def interrupt(line: str) -> None:
            raise KeyboardInterrupt

        shell = tools.Shell(tmp_path, tmp_path / "log")
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


class TestBuild:
    """The whole build, with the real compiler, of a source that is small and otherwise like the engine's."""

    @pytest.fixture(autouse=True)
    def _tools(self, recipe: EngineRecipe) -> None:
        try:
            engine.find_tools(recipe, None)
        except EnvironmentProblem as problem:
            pytest.skip(str(problem))

    @pytest.fixture
    def small(self, recipe: EngineRecipe, tmp_path: Path) -> tuple[Path, Path]:
        """A recipe file and its source distribution."""
        return write_small(tmp_path, recipe)

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
                '"CMAKE_BUILD_TYPE" = "Release"',
                '"GGML_RENAMED" = "ON"',
                VerificationError,
                "definition-unused.*GGML_RENAMED",
            ),
            ('"upstream_commit" = "0c1e57098"', '"upstream_commit" = "111111111"', VerificationError, "library-commit"),
            ('"exports" = ["llama_*", "ggml_*"', '"exports" = ["llama_*"', VerificationError, "library-bindings"),
            ('"libm.so.6"', '"libz.so.1"', VerificationError, "library-needed"),
            ('"-Wl,--as-needed", ', '"-Wl,-rpath,x", ', VerificationError, "library-dynamic"),
            ('"-fPIC"', '"-fPIC", "-Dllama_decode=1"', EnvironmentProblem, "compiling the engine failed"),
            ('"CMAKE_BUILD_TYPE" = "Release"', '"SMALL_PATH" = "ON"', VerificationError, "library-path"),
        ],
    )
    def test_gates_leave_the_earlier_build_alone(
        self, small: tuple[Path, Path], tmp_path: Path, old: str, new: str, error: type[Exception], code: str
    ) -> None:
        recipe, source = small
        out = tmp_path / "out"
        out.mkdir()
        (out / engine.LIBRARY).write_bytes(b"an earlier build")
        text = recipe.read_text("utf-8")
        assert old in text
        recipe.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(error, match=code):
            engine.build(recipe, out, source=source, jobs=2, progress=quiet)
        assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [(engine.LIBRARY, b"an earlier build")]
        assert not out.with_name(".out.building").exists()

    def test_an_addition_takes_the_place_of_a_function_of_the_system(
        self, recipe: EngineRecipe, tmp_path: Path
    ) -> None:
        gates = {"forbidden_instructions": [], "imports": {"libm.so.6": ["sqrtf"]}}
        path, source = write_small(tmp_path, recipe, gates=gates)
        with pytest.raises(VerificationError, match=r"library-imports.*expf of libm\.so\.6"):
            engine.build(path, tmp_path / "out", source=source, jobs=2, progress=quiet)
        text = b"float expf(float x) { return x + 42.0f; }\n"
        (tmp_path / "expf.c").write_bytes(text)
        path, source = write_small(
            tmp_path, recipe, gates=gates, additions=[{"file": "expf.c", "digest": digest_of(text)}]
        )
        record = engine.build(path, tmp_path / "out", source=source, jobs=2, progress=quiet)
        assert record.addition_digests == (digest_of(text),)
        assert "libm.so.6" not in record.libraries[0].needed
        library = ctypes.CDLL(str(tmp_path / "out" / engine.LIBRARY))
        library.ggml_exp.restype, library.ggml_exp.argtypes = ctypes.c_float, [ctypes.c_float]
        assert library.ggml_exp(1.0) == 43.0
        assert not hasattr(ctypes.CDLL(str(tmp_path / "out" / engine.LIBRARY)), "expf")
        (tmp_path / "expf.c").write_bytes(text + b"\n")
        with pytest.raises(VerificationError, match="patch-digest"):
            engine.build(path, tmp_path / "another", source=source, jobs=2, progress=quiet)

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="names an instruction of x86-64")
    def test_forbidden_instructions_are_found_wherever_they_are(
        self, portable: EngineRecipe, recipe: EngineRecipe, tmp_path: Path
    ) -> None:
        assert portable.gates is not None
        gates = {"forbidden_instructions": list(portable.gates.forbidden_instructions), "imports": {}}
        # GCC fuses here although it is asked not to contract: the operation is an explicit one.
        text = b"float ggml_fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }\n"
        (tmp_path / "fused.c").write_bytes(text)
        additions = [{"file": "fused.c", "digest": digest_of(text)}]
        for flags, refused in ((["-fPIC"], False), (["-fPIC", "-mfma"], True)):
            path, source = write_small(
                tmp_path, recipe, gates=gates, additions=additions, compile={"flags": [*flags, "-ffp-contract=off"]}
            )
            if refused:
                with pytest.raises(VerificationError, match=r"library-instructions.*vfm\w+ in ggml_fused"):
                    engine.build(path, tmp_path / "out", source=source, jobs=2, progress=quiet)
            else:
                engine.build(path, tmp_path / "out", source=source, jobs=2, progress=quiet)

    def test_for_another_architecture(self, portable: EngineRecipe, tmp_path: Path) -> None:
        try:
            engine.find_tools(portable, OTHER)
        except EnvironmentProblem as problem:
            pytest.skip(str(problem))
        fields = portable.model_dump(mode="json", include={"architecture", "instructions", "gates", "link"})
        fields["link"]["hidden"] = ["ggml_backend_load"]
        fields["gates"]["imports"] = {}
        path, source = write_small(tmp_path, portable, **fields)
        out = tmp_path / "out"
        here = engine.build(path, out, source=source, jobs=2, progress=quiet)
        there = engine.build(path, out, source=source, jobs=2, progress=quiet, target=OTHER)
        assert (here.architecture, there.architecture) == (platform.machine(), OTHER)
        assert here.libraries != there.libraries
        assert there.system_info == here.system_info == "CPU : KERNELS = one"
        assert there.toolchain.libc.startswith("glibc 2.")
        assert there.recipe_digest == here.recipe_digest
        assert engine.build(path, out, source=source, jobs=2, progress=quiet, target=OTHER) == there
        assert engine.build(path, out, source=source, jobs=2, progress=quiet) == here
