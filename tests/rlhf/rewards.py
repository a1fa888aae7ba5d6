"""Rewards that tests name in params, sound and broken."""

CALLS: list[tuple[str, str]] = []
"""Every answer that `length` was asked about, in order."""


def length(prompt: str, completion: str) -> float:
    """How many words an answer has, by which word it ends: it varies, and is remembered."""
    CALLS.append((prompt, completion))
    return len(completion.split()) + len(completion) / 100


def constant(prompt: str, completion: str) -> float:
    """The same for everything."""
    return 1.0


def nothing(prompt: str, completion: str) -> float:
    """No number."""
    return float("nan")


def broken(prompt: str, completion: str) -> float:
    """No answer at all."""
    raise RuntimeError("out of order")
