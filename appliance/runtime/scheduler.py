"""Continuous batching: requests come and go at any time, their chains of tokens share one decode a turn.

A turn admits, decodes, samples and retires. Requests start in the order in which they came, except that one waits
while another decodes a prefix that both share. Each turn takes one token of every chain that is being generated, then
fills the batch with pieces of longer ones. Memory is bounded by the context's slots and by the rows of logits a turn.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from appliance.runtime.context import Context, Piece
from appliance.runtime.model import RequestError
from appliance.runtime.request import Chain, Request
from appliance.runtime.slots import Slots

ROWS_BYTES = 64 << 20
"""Bound on the logits of one turn."""


class Finished(NamedTuple):
    """A request that has ended: it can reply, or it has failed."""

    request: Request
    error: Exception | None


class Scheduler:
    """Runs requests in one context."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._slots = Slots(context)
        self._waiting: deque[Chain] = deque()
        self._open: dict[Request, int] = {}
        """Requests that have not ended, in the order in which they came, and the number of their chains."""
        self._failed: dict[Request, Exception] = {}
        self._most_rows = max(context.slots, ROWS_BYTES // (4 * context.model.vocabulary))

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return bool(self._open or self._failed)

    def submit(self, request: Request) -> None:
        """Take a request; it starts when there is room."""
        self._open[request] = 0
        self._enqueue(request)

    def cancel(self, request: Request) -> None:
        """End a request that has not ended yet; the next step returns it with an error."""
        if request in self._open:
            self._fail(request, RequestError("cancelled", "the request was cancelled"))

    def step(self) -> list[Finished]:
        """One turn; the requests that ended in it."""
        self._admit()
        pieces = self._pieces()
        if pieces:
            self._decode(pieces)
        return self._retire()

    def _admit(self) -> None:
        for chain in list(self._waiting):
            if not self._slots.has_room:
                break
            if self._slots.admit(chain):
                self._waiting.remove(chain)
                chain.owner.deadline.start()

    def _pieces(self) -> list[Piece]:
        """What to decode now, in the order of the slots: neighbours share the engine's work."""
        room, rows, pieces = self._context.batch_tokens, self._most_rows, []
        active = [(slot, chain) for slot, chain in enumerate(self._slots.chains) if chain is not None]
        for slot, chain in sorted(active, key=lambda item: (item[1].pending > 1, item[1].since)):
            wanted = max(chain.wanted - chain.held, 0)
            count = min(chain.pending, room, wanted + rows)
            if count:
                pieces.append(
                    Piece(slot, chain.held, chain.tokens[chain.held : chain.held + count], min(wanted, count))
                )
                room, rows = room - count, rows - max(count - wanted, 0)
        return sorted(pieces)

    def _decode(self, pieces: list[Piece]) -> None:
        """Decode, and let every owner take its rows. A decode that fails ends every request with a chain in a slot."""
        try:
            results = self._context.decode(pieces)
        except RequestError as error:
            for request in {chain.owner for chain in self._slots.chains if chain is not None}:
                self._fail(request, error)
            self._slots.clear()
            return
        for piece, rows in zip(pieces, results, strict=True):
            chain = self._slots.chains[piece.slot]
            assert chain is not None
            chain.held += len(piece.tokens)
            try:
                for row in rows:
                    chain.owner.take(chain, row)
            except Exception as error:
                # A row that cannot be used fails its own request, whatever the reason; the others go on.
                self._fail(chain.owner, error)

    def _retire(self) -> list[Finished]:
        """Free the slots of chains that have ended; a request ends with its last one, with its time, or by failing."""
        for request in list(self._open):
            try:
                request.deadline.check()
            except RequestError as error:
                self._fail(request, error)
        for slot, chain in enumerate(self._slots.chains):
            if chain is not None and (chain.owner in self._failed or not chain.pending):
                self._slots.release(slot)
                if chain.owner not in self._failed:
                    self._open[chain.owner] -= 1
                    self._enqueue(chain.owner)
        ended = [Finished(request, error) for request, error in self._failed.items()]
        ended += [Finished(request, None) for request, chains in self._open.items() if not chains]
        self._failed.clear()
        for request, _ in ended:
            self._open.pop(request, None)
        return ended

    def _enqueue(self, request: Request) -> None:
        """Let the request's new chains wait: those of one that is running before those of others."""
        chains = request.chains()
        running = request.deadline.running
        self._open[request] += len(chains)
        (self._waiting.extendleft if running else self._waiting.extend)(reversed(chains) if running else chains)

    def _fail(self, request: Request, error: Exception) -> None:
        self._failed[request] = error
        self._open.pop(request, None)
        self._waiting = deque(chain for chain in self._waiting if chain.owner is not request)
