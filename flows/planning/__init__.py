"""What there is to do: the graph of stages as DVC declares it, params and their overlays, and what is stale and why."""
