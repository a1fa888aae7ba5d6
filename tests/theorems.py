"""Theorems that tests make for themselves: true ones of three kinds, in words and in Lean, of graded length."""

from tasks.data.lean_words import byte_pairs
from tasks.runtime.theorem_prompt import Posed


def chain(number: int, length: int = 1, split: str = "train") -> Posed:
    """A goal reached by `length` rewriting steps; every number gives another statement."""
    statement = f"theorem chain_{number} (a b : Nat) (h : a = b + {number}) : a + 0 = b + {number} :="
    lines = ["rw [Nat.add_zero]"] * (length - 1) + ["exact h"]
    body = "".join(f"\n  -- step {n} of {number}\n  {line}" for n, line in enumerate(lines, 1))
    return record(f"chain_{number}", statement, body, length, "chain", split)


def sum_of(number: int, split: str = "train") -> Posed:
    """A sum that computing proves."""
    statement = f"theorem sum_{number} : {number} + 1 = {number + 1} :="
    return record(f"sum_{number}", statement, "\n  -- both sides are computed\n  rfl", 1, "sum", split)


def record(name: str, statement: str, body: str, steps: int, family: str, split: str) -> Posed:
    """A record whose proof is `body` after `by`."""
    bare = "\n".join(line for line in body.split("\n") if not line.strip().startswith("--"))
    return Posed(
        Name=name,
        Statement=statement,
        Proof=f"{statement} by{bare}",
        Commented_proof=f"{statement} by{body}",
        Informal_statement=f"The theorem {name}.",
        Informal_proof=f"It takes {steps} steps.",
        family=family,
        steps=steps,
        split=split,
    )


def world(count: int = 24) -> list[Posed]:
    """Chains of one to four steps and sums, in no order of difficulty."""
    return [chain(n, 1 + n * 7 % 4) if n % 2 else sum_of(n) for n in range(count)]


def tokenizer(records: list[Posed] | None = None):
    """A small byte-level tokenizer of those theorems, with roles and a chat template."""
    told = [text for one in records or world() for text in (one.informal, one.Commented_proof)]
    return byte_pairs(told, 400, 1024)
