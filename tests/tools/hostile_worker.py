"""The worker of the seal tests: hostile code that runs in a real sealed process and reports what it came to.

`tests.tools.hostile` starts it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
import time

from appliance.seal import (
    enter,
    probe,
    received,
    violations,
)
from appliance.seal.plan import SealPlan
from attest.errors import VitrineError
from tests.tools.hostile_actions import ACTIONS, PLANS

# ---- the worker's side: the real engine


def model(plan: SealPlan, fds: dict[str, int], sealing: str, load: str) -> object:
    """Load the engine, seal, then load the model from its memory file and decode: a digest over all logits."""
    import hashlib

    import numpy as np

    from appliance.runtime import binding

    llama = binding.load(fds["library"])

    lines: list[bytes] = []
    callback = llama.llama_log_callback(lambda level, text, data: lines.append(text))
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    layers = [one.state for one in enter(plan).layers] if sealing == "sealed" else []

    llama.llama_log_set(callback, ctypes.c_void_p(0))
    llama.llama_backend_init()
    parameters = llama.llama_model_default_params()
    parameters.load_mode = llama.LLAMA_LOAD_MODE_MMAP if load == "map" else llama.LLAMA_LOAD_MODE_NONE
    file = libc.fdopen(os.dup(fds["model"]), b"rb")
    loaded = llama.llama_model_load_from_file_ptr(ctypes.c_void_p(file), parameters)
    assert loaded, b"".join(lines)
    context_parameters = llama.llama_context_default_params()
    context_parameters.n_ctx, context_parameters.n_threads, context_parameters.n_threads_batch = 512, 2, 2
    context = llama.llama_init_from_model(loaded, context_parameters)
    assert context, b"".join(lines)
    vocabulary = llama.llama_model_get_vocab(loaded)
    size = llama.llama_vocab_n_tokens(vocabulary)
    text = b"What is 12 plus 30?"
    tokens = (ctypes.c_int32 * 64)()
    count = llama.llama_tokenize(vocabulary, text, len(text), tokens, 64, True, True)
    batch = llama.llama_batch_init(64, 0, 1)
    state, position, given = hashlib.sha256(), 0, list(tokens[:count])
    for _ in range(12):
        batch.n_tokens = len(given)
        for index, token in enumerate(given):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position + index, 1
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        assert llama.llama_decode(context, batch) == 0
        position += len(given)
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(context, len(given) - 1), (size,))
        state.update(logits.tobytes())
        given = [int(logits.argmax())]
    llama.llama_free(context)
    llama.llama_model_free(loaded)
    return {
        "digest": state.hexdigest(),
        "layers": layers,
        "violations": [r.name for r in violations(probe() if layers else [])],
    }


# ---- the worker's side: before or without the whole seal


def outcome(plan: SealPlan) -> object:
    started = time.perf_counter()
    result = enter(plan)
    seconds = time.perf_counter() - started
    return {"layers": {layer.name: [layer.state, layer.detail] for layer in result.layers}, "ms": seconds * 1000}


def with_thread(plan: SealPlan) -> object:
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    return _refusal(plan)


def with_socket(plan: SealPlan) -> object:
    import socket

    with socket.socket():
        return _refusal(plan)


def with_file(plan: SealPlan) -> object:
    fd = os.memfd_create("open")
    try:
        return _refusal(plan)
    finally:
        os.close(fd)


def refusal(plan: SealPlan) -> object:
    return _refusal(plan)


def _refusal(plan: SealPlan) -> object:
    try:
        enter(plan)
    except (RuntimeError, VitrineError) as error:
        return f"{type(error).__name__}: {error}"
    return "sealed"


def layer(plan: SealPlan, name: str) -> object:
    """Apply a single layer, then make the attempts that do no harm without the others."""
    from appliance.seal import capabilities, identity, kernel, landlock, limits, privileges, root, seccomp

    if name == "none":
        pass
    elif name == "landlock":
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(plan.landlock)
    elif name == "seccomp":
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(plan.seccomp, seccomp.prepare(plan.seccomp))
    elif name == "root":
        kernel.call("unshare", kernel.CLONE_NEWNS)
        root.replace(tuple(entry.path for entry in plan.landlock.read_only))
    elif name == "net":
        kernel.call("unshare", kernel.CLONE_NEWNET)
    elif name == "limits":
        limits.apply(plan.limits, held_bytes=limits.address_space_bytes(), own_user_namespace=False)
    elif name == "privileges":
        identity.take(plan.identity)
        privileges.drop()
        assert capabilities.effective() == 0
    harmful = {"ptrace", "set-user", "mount", "stop-group", "death-signal", "user-namespace"}
    from appliance.seal.attempts import ATTEMPTS

    if name == "privileges":
        harmful -= {"set-user", "mount"}
    return {r.name: r.outcome for r in probe({one.name for one in ATTEMPTS} - harmful)}


BEFORE = {f.__name__: f for f in (outcome, with_thread, with_socket, with_file, refusal)}


def main() -> None:
    plan, fds, args = received(sys.argv[1:])
    action = args[0]
    if action == "layer":
        report = layer(plan, args[1])
    elif action == "model":
        report = model(plan, fds, *args[1:])
    elif action in BEFORE:
        report = BEFORE[action](plan)
    else:
        PLANS.append(plan)
        enter(plan)
        report = ACTIONS[action]()
    data = json.dumps(report).encode()
    with contextlib.suppress(BrokenPipeError):
        os.write(1, data)


if __name__ == "__main__":
    main()
