"""Questions from local files: how each source is read, and the prompt format that its paper asks in."""
