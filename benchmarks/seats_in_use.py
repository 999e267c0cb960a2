"""How much of what seats reserve do the requests of a list fill, pass by pass, and how many passes does it take?

python benchmarks/seats_in_use.py LENGTHS.csv [--num-prompts 2000] [--block 18x8] [--room-percent 50] [--most 1024]

Nothing is run: seats are played from the lengths. Without ``--most`` the end of each answer is known; with it every
answer may have so many tokens, seats are sized by the lengths of all, with ``--by-prompt`` of those to such prompts,
and ends show when they come. ``floor`` is what all new tokens over all seats come to; the steady state lasts from the
first to the last pass in which at least 95 % of the seats are taken.
"""

from __future__ import annotations

import common

from flexplan.graph import never
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Workload, expectation_of
from flexplan.problem.prompts import read_lengths
from flexplan.schedule import Boarding, Seats


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("lengths")
    parser.add_argument("--num-prompts", type=int)
    parser.add_argument("--block", default="18x8")
    parser.add_argument("--admit-tokens", type=int, default=0)
    parser.add_argument("--room-percent", type=float, default=0.0)
    parser.add_argument("--most", type=int)
    parser.add_argument("--by-prompt", action="store_true", help="lengths are seen with those of their prompts")
    given = parser.parse_args()
    rows, batches = map(int, given.block.split("x"))
    found = read_lengths(given.lengths, given.num_prompts)
    work = Workload(prompt_lens=found.prompt_lens, gen_lens=found.gen_lens)
    if given.most:
        seen = list(zip(found.prompt_lens, found.gen_lens, strict=True)) if given.by_prompt else found.gen_lens
        lens, prompts = expectation_of(seen, given.most)
        work = Workload(prompt_lens=found.prompt_lens, gen_len=given.most, expected_lens=lens, expected_prompts=prompts)
    policy = Policy(rows, batches, admit_tokens=given.admit_tokens, room_percent=given.room_percent)
    block = rolling_block(work, policy)
    boardings = [one for one in Seats(block, work, policy, found.gen_lens).boardings(never) if not one.waits]
    reserved = sum(batch.num_rows * batch.prompt_len for batch in block.batches)
    longest = block.num_rows * max(batch.prompt_len for batch in block.batches)
    full = [n for n, one in enumerate(boardings) if sum(map(len, one.guests.values())) >= 0.95 * block.num_rows]
    steady = boardings[full[0] : full[-1] + 1] if full else []
    again = sum(g.prompt_len for one in boardings for some in one.newcomers.values() for g in some if g.had)
    print(f"seats: {[(batch.num_rows, batch.prompt_len) for batch in block.batches]} (rows, tokens)")
    print(f"passes: {len(boardings)}, floor {sum(found.gen_lens) / block.num_rows:.0f}; steady {len(steady)}")
    print(f"tokens reserved: {reserved}, {reserved / longest:.0%} of as many seats for the longest")
    print(f"of these in use, mean over all passes: {share(boardings, reserved):.1%}")
    print(f"of these in use, mean over the steady state: {share(steady, reserved):.1%}")
    moved = sum(move.now.context(one.number) - 1 for one in boardings for move in one.moves)
    print(f"tokens moved to larger seats: {moved}, {moved / sum(found.prompt_lens):.1%} of all prompts")
    print(f"tokens of prompts computed again: {again}, {again / sum(found.prompt_lens):.1%} of all prompts")


def share(boardings: list[Boarding], reserved: int) -> float:
    """Of all reserved tokens those in use, in the mean of these passes."""
    return sum(sum(one.contexts.values()) for one in boardings) / max(1, len(boardings)) / reserved


if __name__ == "__main__":
    main()
