"""The runtime: executes a task graph with torch."""
