"""A plug-in for flexplan: a greedy planner, and a schedule with its micro-batches in reverse."""
