"""What there is to do: the stages as DVC declares them, params and their overlays, what ran before, what is stale and why."""
