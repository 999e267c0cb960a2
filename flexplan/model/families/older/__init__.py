"""Families that came before Llama, each with a layout of its own.

bloom     Bloom.
falcon    Falcon.
gpt2      GPT-2.
neox      GPT-NeoX and Pythia.
opt       OPT.
"""
