"""The built-in schedules: which passes are made, in which order.

rolling  The schedule `rolling`: requests take seats as others leave them.
rowwise  The schedule `rowwise`: one micro-batch to its last token before the next.
zigzag   The schedule `zigzag`: one pass over the weights serves the whole block.
"""
