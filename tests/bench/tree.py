"""CPU time of a process and all below it, ended ones included, also those that nobody waits for.

A worker that is killed with its keeper, or with its container, is waited for by no process of ours: its time is in
nobody's record. So the tree is looked at while it runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from pathlib import Path

EVERY_S = 0.2
"""Between two looks; a look takes some milliseconds, which are taken off again. What a process used between the last
look and an end that nobody waited for is missing."""


def tree_cpu_s(root: int | None = None) -> float:
    """CPU seconds of the process `root`, this one by default, and all below it, with the children that each of them
    has waited for."""
    root = root or os.getpid()
    below: dict[int, list[tuple[int, int]]] = defaultdict(list)
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime of proc(5)
            below[int(fields[1])].append((int(entry.name), ticks))
            total = ticks if int(entry.name) == root else total
    parents = [root]
    while parents:
        for child, ticks in below.pop(parents.pop(), ()):
            total += ticks
            parents.append(child)
    return total / os.sysconf("SC_CLK_TCK")


class TreeClock:
    """CPU seconds of this process and all below it, from its start; looks from a thread."""

    def __init__(self) -> None:
        self._last_s = self._lost_s = self._own_s = 0.0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tree-clock", daemon=True)
        self._thread.start()

    def read(self) -> float:
        """The CPU seconds until now."""
        with self._lock:
            began = time.thread_time()
            now_s = tree_cpu_s()
            if now_s < self._last_s:
                now_s = tree_cpu_s()  # a process that was waited for while we looked is in neither record for a moment
            # Time never goes back: what is less was some process's that nobody waited for.
            self._lost_s += max(0.0, self._last_s - now_s)
            self._last_s = now_s
            self._own_s += time.thread_time() - began
            return self._last_s + self._lost_s - self._own_s

    def stop(self) -> float:
        """The CPU seconds at the end; nothing is looked at any more."""
        self._done.set()
        self._thread.join()
        return self.read()

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            self.read()
