"""One rolling job that runs: prompts into the arenas when their requests come in, tokens out of each pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch

from flexplan.graph import Access, Sweep
from flexplan.job import Standing
from flexplan.placement import ID_BYTES, PASSES_IN_FLIGHT
from flexplan.schedule import Boarding, Guest
from flexplan_runtime.execute import BlockRun, Sampling
from flexplan_runtime.execute.choosing import NO_TOKEN, Logprob, Logprobs, Penalties, chooser_of, penalties_of
from flexplan_runtime.execute.seating import Choice, DoorState, begins_of

_NOBODY = Sampling()


class RollingRun(BlockRun):
    """All requests of a job, and the lanes that its tasks run in; to the engine's loop one long block."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """With its lanes at work, and a cache of numbers: those that are not read weigh nothing, but count."""
        for name in ("cache_gpu", "cache_cpu"):
            buffer = self.plan.graph.buffers.get(name)
            for index, size in enumerate(buffer.sizes if buffer else ()):
                self.memory.bytes_of(Access(name, index, 0, size)).zero_()
        with self.lanes.at_work():
            yield

    def finished(self, request: int) -> bool:
        """Has this request ended?  A rolling graph asks by requests, not by micro-batches."""
        return bool(self.finish_reason(request))

    def idle(self, k: int) -> bool:
        """Has nobody more to say, in whatever micro-batch?"""
        return self.num_ended == len(self.plan.rows)

    # -- into a pass --------------------------------------------------------------------------------------------------
    def board(self, sweep: Sweep) -> None:
        """Put in place what a pass that is about to begin reads of who is there."""
        boarding: Boarding = sweep.boarding
        number, batches = boarding.number, self.plan.placement.block.batches
        if boarding.moves:
            self.state.moves[number] = boarding.moves
        for k, guests in boarding.guests.items():
            begins = begins_of(guests, number, batches[k].num_rows)
            self._fill("seats_host", number % PASSES_IN_FLIGHT * len(batches) + k, begins)
            self.state.choices[sweep.i, k] = self._choice_of_seats(guests, number, batches[k].num_rows)
        doors = self.plan.placement.block.doors
        for place, (k, newcomers) in enumerate(boarding.newcomers.items()):
            requests = [guest.request for guest in newcomers]
            ids = torch.tensor([token for guest in newcomers for token in self._prompt(guest)])
            self._fill("prompt_ids_host", number % PASSES_IN_FLIGHT * doors + place, ids)
            self.state.doors[1 + number, k] = DoorState(newcomers, self.state.device)
            self.state.choices[-sweep.i, k] = self._choice(requests, [guest.had for guest in newcomers])

    def _prompt(self, guest: Guest) -> Iterator[int]:
        """A newcomer's prompt; of one that has outgrown another seat, its new tokens, too."""
        yield from self.plan.rows[guest.request].prompt
        yield from self.tokens[guest.request][: guest.had]

    def _choice_of_seats(self, guests: Sequence[Guest], number: int, count: int) -> Choice:
        """How all seats of a micro-batch choose; what nobody sits for is no matter."""
        there: list[int | None] = [None] * count
        steps = [0] * count
        for guest in guests:
            there[guest.row], steps[guest.row] = guest.request, guest.chosen(number)
        return self._choice(there, steps)

    def _choice(self, requests: Sequence[int | None], steps: list[int]) -> Choice:
        rows = [None if request is None else self.plan.rows[request] for request in requests]
        usual = next((row.sampling for row in rows if row is not None), _NOBODY)
        ways = [usual if row is None else row.sampling for row in rows]
        counts, device = [row.logprobs if row else None for row in rows], self.state.device
        return Choice(
            chooser_of(ways, device),
            [row.draw if row else 0 for row in rows],
            steps,
            [self._rules(request, step) for request, step in zip(requests, steps, strict=True)],
            None if counts.count(None) == len(counts) else Logprobs(counts, device),
        )

    def _rules(self, request: int | None, step: int) -> Penalties | None:
        """A request's, with what it has been given so far; none in the pass behind its last."""
        if request is None or step >= self.plan.rows[request].most:
            return None
        row = self.plan.rows[request]
        penalties = self.state.penalties
        if request not in penalties and row.rules.change_logits:
            penalties[request] = penalties_of([row], self.state.placement.shape.vocab_size, self.state.device)
        return penalties.get(request)

    def _fill(self, buffer: str, index: int, values: torch.Tensor) -> None:
        self.memory.bytes_of(Access(buffer, index, 0, values.nbytes)).view(torch.int64).copy_(values)

    # -- out of a pass ------------------------------------------------------------------------------------------------
    def take(self, landed: Iterable[Sweep]) -> None:
        """The new tokens of passes that are done, each told to the caller."""
        for sweep in landed:
            boarding: Boarding = sweep.boarding
            for k in sweep.ks:
                told = self._told(boarding, sweep.i, k)
                self._take_seats(boarding, k, told)
                self.state.doors.pop((1 + boarding.number, k), None)
            self.state.moves.pop(boarding.number, None)
            self.report(self._standing(boarding))

    def _standing(self, boarding: Boarding) -> Standing:
        """How far the job is, with the cache as it was in this pass."""
        there = (*boarding.guests.values(), *boarding.newcomers.values())
        live = sum(not self.finished(guest.request) for guests in there for guest in guests)
        held = sum(boarding.contexts.values()) + sum(map(boarding.prompt_tokens, boarding.newcomers))
        seats = self.plan.placement.block.num_rows
        return Standing(self.num_tokens, self.num_spared, live, seats, held, self._reserved)

    @cached_property
    def _reserved(self) -> int:
        return sum(batch.num_rows * batch.prompt_len for batch in self.plan.placement.block.batches)

    def _told(self, boarding: Boarding, i: int, k: int) -> dict[int, Logprob]:
        """The log-probabilities of a pass, by request."""
        seated, entered = self.state.choices.pop((i, k), None), self.state.choices.pop((-i, k), None)
        found = dict[int, Logprob]()
        if seated is not None and seated.logprobs is not None:
            by_row = seated.logprobs.take(0)
            found |= {g.request: by_row[g.row] for g in boarding.guests.get(k, ()) if g.row in by_row}
        if entered is not None and entered.logprobs is not None:
            newcomers = boarding.newcomers[k]
            found |= {newcomers[place].request: one for place, one in entered.logprobs.take(0).items()}
        return found

    def _take_seats(self, boarding: Boarding, k: int, told: dict[int, Logprob]) -> None:
        batches = self.plan.placement.block.batches
        index, nbytes = boarding.number % PASSES_IN_FLIGHT * len(batches) + k, batches[k].num_rows * ID_BYTES
        chosen = self.memory.bytes_of(Access("outputs", index, 0, nbytes)).view(torch.int64).tolist()
        for guest in (*boarding.guests.get(k, ()), *boarding.newcomers.get(k, ())):
            if not self.finished(guest.request):  # else it ended while this pass was under way
                token = chosen[guest.row]
                if token != NO_TOKEN and guest.request in told:
                    self.logprobs[guest.request].append(told[guest.request])
                self._note(guest.request, token)
                if self.finished(guest.request):
                    self.state.penalties.pop(guest.request, None)
