"""Stage `prove`: provers write proofs of the theorems that Atlas holds back."""

from __future__ import annotations

from typing import ClassVar

from tasks.prove.writing import WritingParams, write_all
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(WritingParams):
    """Rounds of proof writing."""

    section: ClassVar[str] = "prove"


def main(params: Params, run: Run, *, provers: In, examples: In, theorems: In, out: Out, scores: Out) -> None:
    """Prove the theorems of the file `theorems` by every prover in `provers`, with examples from the file `examples`."""
    write_all(params, run, provers=provers, examples=examples, theorems=theorems, out=out, scores=scores)


if __name__ == "__main__":
    run_stage(main)
