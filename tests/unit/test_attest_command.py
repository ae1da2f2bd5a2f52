"""What the command `attest` does before and after its work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "print('the plugin is loaded')\n\n\ndef new_schema_validator(*_, **__):\n    return None, None, None\n"


def test_a_plugin_of_pydantic_has_no_say(tmp_path: Path) -> None:
    """Any package may bring one, and would be told of every value that is read."""
    record = tmp_path / "meddler-1.dist-info"
    record.mkdir()
    (tmp_path / "meddler.py").write_text(PLUGIN, "utf-8")
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: meddler\nVersion: 1\n", "utf-8")
    (record / "entry_points.txt").write_text("[pydantic]\nmeddler = meddler\n", "utf-8")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))

    def said(*command: str) -> str:
        run = [sys.executable, *command]
        return subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert "the plugin is loaded" in said("-c", "import attest.job")
    assert "the plugin is loaded" not in said("-m", "attest", "policy", "auditor")
