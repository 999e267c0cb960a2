"""How much of what seats reserve do the requests of a list fill, pass by pass, and how many passes does it take?

python benchmarks/seats_in_use.py LENGTHS.csv [--num-prompts 2000] [--block 18x8]

Nothing is run: seats are played from the lengths. ``floor`` is what all new tokens over all seats come to.
"""

from __future__ import annotations

import common

from flexplan.graph import never
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Workload, read_lengths
from flexplan.schedule import Seats


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("lengths")
    parser.add_argument("--num-prompts", type=int)
    parser.add_argument("--block", default="18x8")
    parser.add_argument("--admit-tokens", type=int, default=0)
    given = parser.parse_args()
    rows, batches = map(int, given.block.split("x"))
    found = read_lengths(given.lengths, given.num_prompts)
    work, policy = Workload(prompt_lens=found.prompt_lens, gen_lens=found.gen_lens), Policy(rows, batches)
    block = rolling_block(work, policy)
    boardings = list(Seats(block, work, given.admit_tokens).boardings(never))
    reserved = sum(batch.num_rows * batch.prompt_len for batch in block.batches)
    held = sum(sum(boarding.contexts.values()) for boarding in boardings) / len(boardings)
    longest = block.num_rows * max(batch.prompt_len for batch in block.batches)
    print(f"seats: {[(batch.num_rows, batch.prompt_len) for batch in block.batches]} (rows, tokens)")
    print(f"passes: {len(boardings)}, floor {sum(work.gen_lens) / block.num_rows:.0f}")
    print(f"tokens reserved: {reserved}, {reserved / longest:.0%} of as many seats for the longest")
    print(f"of these in use, mean over all passes: {held / reserved:.1%}")


if __name__ == "__main__":
    main()
