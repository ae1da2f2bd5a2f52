"""llama-server as the other side of four-choice scoring: its prompt cache on, one request a choice.

A choice is scored as any client can: `/completion` with the prompt's token ids, a grammar that allows the choice alone,
and the log-probability of each generated token (`n_probs`), which the server computes from the unconstrained logits.
The server keeps the prompt in its cache between the requests, so that it decodes the shots once, a question once and
a token or so a choice.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.bench import stock_tools
from tests.bench.clock import cpu_of
from tests.bench.stock_scoring import shared

CONTEXT_TOKENS = 2048
START_TIMEOUT_S = 300.0
REQUEST_TIMEOUT_S = 600.0


def score(model: Path, prompts: Path, *, rows: int, threads: int) -> dict[str, Any]:
    """Seconds of the server (its own CPU time, not the client's), picks and log-likelihoods of the first `rows`."""
    every = json.loads(prompts.read_text("utf-8"))
    found, warm = every[:rows], {**every[0], "tokens": shared([row["tokens"] for row in every])}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[str | Path] = [stock_tools.BIN / "llama-server", "-m", model, "-c", str(CONTEXT_TOKENS), "-np", "1"]
    command += ["-t", str(threads), "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    log = stock_tools.HOME / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=stock_tools.environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        connection = _connect(port, process, log)
        # The shots are in the cache, and the server has run once, before the clock starts.
        _choice(connection, warm, 0)
        cpu, wall = cpu_of(process.pid), time.perf_counter()
        values = [[_choice(connection, row, option) for option in range(len(row["options"]))] for row in found]
        spent = [time.perf_counter() - wall, cpu_of(process.pid) - cpu]
    finally:
        process.kill()
        process.wait()
    return {"spent": spent, "picks": [row.index(max(row)) for row in values], "logprobs": values}


def _choice(connection: http.client.HTTPConnection, row: dict[str, Any], option: int) -> float:
    """Log-likelihood of one option. Raises `RuntimeError` unless the server generated exactly its tokens."""
    tokens = row["option_tokens"][option]
    body = {
        "prompt": row["tokens"],
        "n_predict": len(tokens),
        "n_probs": 1,
        "temperature": 0,
        "cache_prompt": True,
        "grammar": f"root ::= {json.dumps(row['options'][option])}",
    }
    connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
    reply = json.loads(connection.getresponse().read())
    generated = reply.get("completion_probabilities", [])
    if [item["id"] for item in generated] != tokens:
        raise RuntimeError(f"expected tokens {tokens} from llama-server, found {json.dumps(reply)[:600]}")
    return float(sum(item["logprob"] for item in generated))


def _connect(port: int, process: subprocess.Popen[bytes], log: Path) -> http.client.HTTPConnection:
    """A connection to the server, once it is ready."""
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                return connection
        except OSError:
            pass
        connection.close()
        time.sleep(0.2)
    raise RuntimeError(f"expected llama-server to be ready within {START_TIMEOUT_S:g} s, see {log}")
