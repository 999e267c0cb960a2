"""flexplan: which tensor lives where, what moves when, and how fast it will be."""
