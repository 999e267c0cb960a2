"""Token ids, and rows of the token table."""

from __future__ import annotations

from flexplan.graph import Task
from flexplan.proof.meanings.part import About, Meaning, Parts, part, require
from flexplan.proof.values import Value


class TokenMeanings(About):
    """Token ids, and rows of the token table."""

    def _load_ids(self, t: Task) -> Meaning:
        require(t.i == t.j == 0, "only the prompt's ids come from the host")
        return Meaning(self._prompt("ids_host", t.k), self._prompt("ids", t.k))

    def _prompt(self, buffer: str, k: int) -> Parts:
        nbytes = self.row_bytes(k) * self.placement.new_tokens(0, k)
        return part(buffer, k, 0, nbytes, Value("prompt", k=k))

    def _newest(self, i: int, k: int) -> Parts:
        """The new token of step i where it was chosen."""
        size = self.row_bytes(k)
        return part("ids", k, 0, size, Value("tokens", k=k), i * size)

    def _output(self, i: int, k: int) -> Parts:
        """The same where the caller finds it."""
        size = self.row_bytes(k)
        return part("outputs", k, i * size, (i + 1) * size, Value("tokens", k=k))

    def _store_ids(self, t: Task) -> Meaning:
        require(t.j == len(self.layers) - 1, "the head's layer chooses tokens")
        return Meaning(self._newest(t.i, t.k), self._output(t.i, t.k))

    def _gather(self, t: Task) -> Meaning:
        require(t.j == 0, "rows are gathered for the embedding")
        table = self.placement.table
        ids = self._output(t.i - 1, t.k) if t.i else self._prompt("ids_host", t.k)
        homes = part("weights_cpu", table.j, 0, table.part_bytes["cpu"], Value("host weights", j=table.j))
        homes += part("weights_disk", table.j, 0, table.part_bytes["disk"], Value("disk weights", j=table.j))
        return Meaning(ids + homes, self._rows("rows_host", t))

    def _load_rows(self, t: Task) -> Meaning:
        require(t.j == 0, "rows are gathered for the embedding")
        return Meaning(self._rows("rows_host", t), self._rows("rows", t))

    def _rows(self, buffer: str, t: Task) -> Parts:
        require(self.placement.gathers, "the whole token table is on the gpu")
        tokens = self.placement.rows(t.k) * self.placement.new_tokens(t.i, t.k)
        nbytes = tokens * self.placement.shape.embed_size * self.element
        return part(buffer, None, 0, nbytes, Value("rows of the table", i=t.i, k=t.k))

    def _embedded(self, t: Task) -> Parts:
        """What the embedding reads beside its weights."""
        table = self.placement.table
        reads = self._newest(t.i - 1, t.k) if t.i else self._prompt("ids", t.k)
        if table.j:
            reads += part("weights_gpu", table.j, 0, table.part_bytes["gpu"], Value("gpu weights", j=table.j))
        return reads + (self._rows("rows", t) if self.placement.gathers else ())
