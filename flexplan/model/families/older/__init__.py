"""Families that came before Llama, each with a layout of its own.

gpt2      GPT-2.
neox      GPT-NeoX and Pythia.
opt       OPT.
"""
