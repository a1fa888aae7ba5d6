"""Examples have no deadline: on a busy machine a slow one says nothing about the metric."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
