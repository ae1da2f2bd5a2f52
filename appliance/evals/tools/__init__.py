"""Tools that an agent may call: pure Python in the sealed eval worker, or answers that were recorded. One file each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.evals.tools.calculator import Calculator
from appliance.evals.tools.files import Files
from appliance.evals.tools.kv import KeyValue
from appliance.evals.tools.recorded import Recorded

AnyTool = Annotated[Calculator | Files | KeyValue | Recorded, Field(discriminator="tool")]
"""The settings of one tool."""
