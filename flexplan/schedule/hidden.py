"""Token ids, the rows of the token table, and hidden states."""

from __future__ import annotations

from functools import cache

from flexplan.cost import work as cost
from flexplan.graph import Access
from flexplan.placement import DISK_ALIGN, ID_BYTES, Placement
from flexplan.schedule.emitter import Accesses, Emitter, Pass, Tasks, access
from flexplan.units import round_up


class HiddenVerbs(Emitter):
    """load_ids, store_ids, load_hidden and store_hidden, and what the layers read and write of them."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._hidden_bytes = cache(placement.hidden_bytes)  # of i = 0 and 1: all decoding steps are alike
        self._hidden_parts = cache(placement.hidden_parts)

    # -- token ids and the rows of the token table ---------------------------------------------------------------
    def load_ids(self, p: Pass, k: int) -> Tasks:
        """The prompt's ids to the gpu, and the rows of the token table that are not there."""
        tokens = self.placement.rows(k) * self.placement.new_tokens(p.i, k)
        ids = self._ids_on_host(p, k)
        if p.i == 0:
            nbytes = tokens * ID_BYTES
            yield self._task("load_ids", p, 0, k, cost.up_work(nbytes), ids, access("ids", k, nbytes))
        if self.placement.gathers:
            yield from self._gather(p, k, ids, tokens, self._turn(p, 0, 1, k))

    def _gather(self, p: Pass, k: int, ids: Accesses, tokens: int, turn: int, part: int = 0) -> Tasks:
        """Rows of the token table that are off the gpu, of these ids."""
        nbytes = tokens * self.placement.shape.embed_size * self.placement.shape.bytes_per_element
        table = self.placement.table
        homes = access("weights_cpu", table.j, table.part_bytes["cpu"])
        homes += access("weights_disk", table.j, table.part_bytes["disk"])
        rows_host, rows = access("rows_host", turn, nbytes), access("rows", turn, nbytes)
        yield self._task("gather", p, 0, k, cost.copy_work(nbytes), ids + homes, rows_host, part)
        yield self._task("load_rows", p, 0, k, cost.up_work(nbytes), rows_host, rows, part)

    def _ids_on_host(self, p: Pass, k: int) -> Accesses:
        row_bytes = self.placement.rows(k) * ID_BYTES
        if p.i == 0:
            return (Access("ids_host", k, 0, row_bytes * self.placement.new_tokens(0, k)),)
        return (Access("outputs", k, (p.i - 1) * row_bytes, p.i * row_bytes),)

    def store_ids(self, p: Pass, k: int) -> Tasks:
        """The new token of every row to the host."""
        nbytes = self.placement.rows(k) * ID_BYTES
        writes = (Access("outputs", k, p.i * nbytes, (p.i + 1) * nbytes),)
        yield self._task(
            "store_ids", p, len(self.layers) - 1, k, cost.down_work(nbytes), access("ids", k, nbytes), writes
        )

    def _embed_reads(self, p: Pass, k: int) -> Accesses:
        tokens = self.placement.rows(k) * self.placement.new_tokens(p.i, k)
        return access("ids", k, tokens * ID_BYTES) + self._table_reads(self._turn(p, 0, 1, k), tokens)

    def _table_reads(self, turn: int, tokens: int) -> Accesses:
        """Of so many tokens the rows of the table: on the gpu, and those that were gathered."""
        reads: Accesses = ()
        if self.placement.table.j != 0:
            reads += access("weights_gpu", self.placement.table.j, self.placement.table.part_bytes["gpu"])
        if self.placement.gathers:
            nbytes = tokens * self.placement.shape.embed_size * self.placement.shape.bytes_per_element
            reads += access("rows", turn, nbytes)
        return reads

    # -- hidden states -------------------------------------------------------------------------------------------
    def _hidden(self, p: Pass, j: int, k: int, lo: int = 0, hi: int | None = None) -> Accesses:
        """The working slot of (j, k), or its bytes lo .. hi; where activations stay on the gpu it is their home."""
        index = k if self.placement.hidden_stays else self._turn(p, j, len(self.layers), k)
        end = self._hidden_bytes(min(p.i, 1), k) if hi is None else hi
        return (Access("hidden_decode" if p.i else "hidden_prefill", index, lo, end),)

    def load_hidden(self, p: Pass, j: int, k: int) -> Tasks:
        """Hidden states that are not at home on the gpu, into the working slot of (j, k)."""
        gpu, cpu, disk = self._hidden_parts(min(p.i, 1), k)
        if self.placement.hidden_stays or not cpu + disk:
            return
        reads = access("hidden_cpu", k, cpu)
        if disk:
            padded = round_up(disk, DISK_ALIGN)
            relay = access("hidden_relay", 2 * self._turn(p, j, len(self.layers), k), padded)
            yield self._task("read_hidden", p, j, k, cost.read_work(padded), access("hidden_disk", k, padded), relay)
            reads += relay
        yield self._task("load_hidden", p, j, k, cost.up_work(cpu + disk), reads, self._hidden(p, j, k, gpu))

    def store_hidden(self, p: Pass, j: int, k: int) -> Tasks:
        """What (j, k) computed, to where the next layer will fetch it from."""
        gpu, cpu, disk = self._hidden_parts(min(p.i, 1), k)
        if self.placement.hidden_stays or not cpu + disk or j == len(self.layers) - 1:
            return
        padded = round_up(disk, DISK_ALIGN)
        relay = access("hidden_relay", 2 * self._turn(p, j, len(self.layers), k) + 1, padded)
        work, writes = cost.down_work(cpu + disk), access("hidden_cpu", k, cpu) + relay
        yield self._task("store_hidden", p, j, k, work, self._hidden(p, j, k, gpu), writes)
        if disk:
            yield self._task("write_hidden", p, j, k, cost.write_work(padded), relay, access("hidden_disk", k, padded))

    def _hidden_in(self, p: Pass, j: int, k: int) -> tuple[Accesses, Accesses]:
        """(reads, writes) of taking up the hidden states: their part on the gpu is copied into the working slot."""
        gpu, cpu, disk = self._hidden_parts(min(p.i, 1), k)
        if self.placement.hidden_stays:
            return self._hidden(p, j, k), ()
        loaded = self._hidden(p, j, k, gpu) if cpu + disk else ()
        return loaded + access("hidden_gpu", k, gpu), self._hidden(p, j, k, 0, gpu) if gpu else ()

    def _hidden_out(self, p: Pass, j: int, k: int) -> Accesses:
        """The working slot, and the part of it that is at home on the gpu."""
        if self.placement.hidden_stays:
            return self._hidden(p, j, k)
        return self._hidden(p, j, k) + access("hidden_gpu", k, self._hidden_parts(min(p.i, 1), k)[0])
