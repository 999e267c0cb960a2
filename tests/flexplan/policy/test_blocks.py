"""Blocks: every prompt once, in input order by block, by length within it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flexplan.policy import BlockKind, Policy, block_kinds, fill_blocks, full_block
from flexplan.problem import Workload

lens = st.lists(st.integers(1, 100), min_size=1, max_size=60).map(tuple)
policies = st.builds(Policy, st.integers(1, 5), st.integers(1, 4))


@given(lens, policies)
def test_every_prompt_is_in_one_batch_once(prompt_lens: tuple[int, ...], policy: Policy) -> None:
    blocks = list(fill_blocks(Workload(prompt_lens=prompt_lens), policy))
    rows = [row for block in blocks for batch in block.batches for row in batch.rows]
    assert sorted(rows) == list(range(len(prompt_lens)))
    for n, block in enumerate(blocks):
        first = n * policy.block_size
        assert {row for batch in block.batches for row in batch.rows} == set(range(first, first + block.num_rows))


@given(lens, policies)
def test_only_the_last_block_and_a_last_batch_may_be_partial(prompt_lens: tuple[int, ...], policy: Policy) -> None:
    blocks = list(fill_blocks(Workload(prompt_lens=prompt_lens), policy))
    assert all(block.num_rows == policy.block_size for block in blocks[:-1])
    for block in blocks:
        assert all(batch.num_rows == policy.gpu_batch_size for batch in block.batches[:-1])
        assert len(block.batches) <= policy.num_gpu_batches


@given(lens, policies)
def test_a_batch_is_padded_to_its_own_longest_prompt(prompt_lens: tuple[int, ...], policy: Policy) -> None:
    for block in fill_blocks(Workload(prompt_lens=prompt_lens), policy):
        for batch in block.batches:
            assert batch.prompt_len == max(prompt_lens[row] for row in batch.rows)
        padded = [batch.prompt_len for batch in block.batches]
        assert padded == sorted(padded)
        assert block.prompt_len == padded[-1]


@given(lens, policies)
def test_kinds_of_blocks_are_those_of_all_blocks_counted(prompt_lens: tuple[int, ...], policy: Policy) -> None:
    for workload in (
        Workload(prompt_lens=prompt_lens),
        Workload(prompt_len=7, num_prompts=len(prompt_lens)),
        Workload(gen_lens=prompt_lens),
        Workload(prompt_lens=prompt_lens, gen_lens=prompt_lens[::-1]),
    ):
        blocks = fill_blocks(workload, policy)
        kinds = Counter(
            BlockKind(tuple(batch.prompt_len for batch in block.batches for _ in batch.rows), block.gen_len)
            for block in blocks
        )
        assert block_kinds(workload, policy.gpu_batch_size, policy.num_gpu_batches) == kinds


def test_without_a_number_of_prompts_there_is_one_full_block() -> None:
    workload, policy = Workload(prompt_len=7, gen_len=3), Policy(2, 3)
    assert list(fill_blocks(workload, policy)) == [full_block(workload, policy)]
    assert full_block(workload, policy).num_rows == 6


def test_one_prompt_is_a_block_of_one() -> None:
    (block,) = fill_blocks(Workload(num_prompts=1), Policy(4, 4))
    assert [batch.rows for batch in block.batches] == [(0,)]
