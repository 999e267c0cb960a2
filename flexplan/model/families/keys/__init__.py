"""What all families read with: the keys of a `config.json` by their types, rotary positions, names of tensors.

fields    The keys of a `config.json` that a family reads, with transformers' defaults, each taken by its type.
names     What a family calls its tensors in a checkpoint.
rope      The rotary frequencies that a `config.json` asks for, and how it stretches them.
rotary    What Llama and those like it share.
slopes    The slopes of ALiBi.
"""
