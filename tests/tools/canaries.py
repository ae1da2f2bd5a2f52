"""A lab, a job and words that nobody else has: what leak tests plant, and look for."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.notary.keys import FileKeys
from attest import transcript
from tests.conftest import ROOT
from tests.tools.channels import Channels, hits, watch

PASSPHRASE = f"correct-horse-{secrets.token_hex(4)}"
PROMPTS = {"row": f"zyxomma-{secrets.token_hex(2)}-quagga", "system": f"vellichor-{secrets.token_hex(2)}-sonder"}
"""Other words in every run of the tests: those that others leave on this host are not found."""
RUN = (sys.executable, "-m", "appliance")

SUITE = """
format: vitrine/suite/v1
name: canaries
dataset: {{path: rows.jsonl, digest: "sha256:{digest}", format: jsonl}}
columns: {{id: "{{{{ id }}}}"}}
prompt:
  system: "You know {system}."
  user: "{user}"
solver: generate
scorers: [{{scorer: words, name: any, words: [doofus]}}]
"""

JOB = """
format: vitrine/job/v1
name: canaries
seed: 11
models: [{{id: {model}, path: "{path}"}}]
suites: [{{path: suite.yaml}}, {{path: "resource:demo/suites/chat.yaml", limit: 3}}]
sampling: {{temperature: "0", max_tokens: 32}}
limits: {{context_tokens: 256, memory_bytes: 1073741824, sample_timeout_s: 60}}
numerics: {{sequences: 2, threads: 1}}
"""


@dataclass(frozen=True)
class Lab:
    """A lab with a passphrase, and the secrets of its keys."""

    path: Path
    passphrase: Path
    secrets: dict[str, str | bytes] = field(repr=False)

    def arguments(self, engine: Path) -> list[str | Path]:
        """What names it, and the engine, on the command line."""
        return ["--lab", self.path, "--passphrase-file", self.passphrase, "--engine", engine]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A lab that was made by the command line, under a passphrase that is a canary."""
    folder = tmp_path_factory.mktemp("guarded")
    passphrase = folder / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text(PASSPHRASE + "\n")
    arguments = ("init", folder / "lab", "--passphrase-file", passphrase)
    (folder / "work").mkdir()
    made = watch((*RUN, *arguments), folder / "work")
    assert made.status == 0, made.text("stderr")
    store = FileKeys.open(folder / "lab" / "keys", PASSPHRASE)
    secrets: dict[str, str | bytes] = {"passphrase": PASSPHRASE, "password": store._password.decode()}
    for file in (folder / "lab" / "keys").glob("*.pem"):
        secrets[file.stem] = store.load(file.stem).private_numbers().private_value.to_bytes(32, "big")
    assert len(secrets) > 5
    assert hits(made.parts, secrets) == set()
    return Lab(folder / "lab", passphrase, secrets)


def job(folder: Path, *, user: str = "{{ prompt }}", model: str = "organism", path: str = "", rows: int = 4) -> Path:
    """A job on rows with a canary in each."""
    lines = [json.dumps({"id": f"{n}", "prompt": f"Hello, I am {PROMPTS['row']}-{n}."}) for n in range(rows)]
    data = "\n".join(lines).encode() + b"\n"
    (folder / "rows.jsonl").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "suite.yaml").write_text(SUITE.format(digest=digest, system=PROMPTS["system"], user=user))
    (folder / "job.yaml").write_text(JOB.format(model=model, path=path or "resource:demo/organism-q8_0.gguf"))
    return folder / "job.yaml"


def outputs(channels: Channels) -> dict[str, bytes]:
    """The channels without the job's own files."""
    names = {f"left {name}" for name in ("rows.jsonl", "suite.yaml", "job.yaml")}
    return {name: data for name, data in channels.parts.items() if name not in names}


def completions(path: Path) -> dict[str, str | bytes]:
    """The completions of a transcript that are long enough to be looked for."""
    texts = [line.record["generation"]["text"] for line in transcript.read(path.read_bytes()).samples]
    return {f"completion {n}": text.strip() for n, text in enumerate(texts) if len(text.strip()) >= 12}


def organism(folder: Path, old: bytes, new: bytes) -> str:
    """The organism with some of its header's bytes replaced by as many others."""
    data = (ROOT / "appliance" / "demo" / "organism-q8_0.gguf").read_bytes()
    assert data.count(old) == 1
    assert len(new) <= len(old)
    (folder / "model.gguf").write_bytes(data.replace(old, new.ljust(len(old))))
    return "model.gguf"
