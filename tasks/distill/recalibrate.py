"""Chooses on validation rows how the teacher's top-k probabilities are recalibrated; the file keeps the raw ones.

So c can change without a new pass of the teacher. Only the first token of an answer counts: what follows it, its end above all,
is certain, and would make every teacher look calibrated. Nothing here reads test data.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.distill.rows import VALIDATION, read_rows, tokenizer_digest
from tasks.distill.topk_file import TopK
from tasks.distill.trustworthy import WAYS, Recalibration, choose, ece
from tasks.runtime.models import check_folder, load_tokenizer
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish_json
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """What the search for c reads."""

    section: ClassVar[str] = "recalibrate"
    max_length: int = Field(128, ge=8)
    """Tokens of a packed row, as in teacher-topk."""


def main(params: Params, run: Run, *, topk: In, student: In, sets: In, scores: Out) -> None:
    """Choose c on `topk`/valid.topk and `sets`/valid.jsonl."""
    check_folder(student)
    tokenizer = load_tokenizer(student)
    data = read_rows(tokenizer, sets / f"{VALIDATION}.jsonl", params.max_length)
    file = TopK(topk / f"{VALIDATION}.topk")
    file.require(tokenizer=tokenizer_digest(tokenizer), data=data.digest)
    ids_NK, kept_NK = file.read(0, len(file))
    probs_NK = kept_NK[data.begins].astype(float)
    correct_N = ids_NK[data.begins, 0] == data.targets[data.begins]
    best = {way: choose(way, probs_NK, correct_N) for way in WAYS}
    found = Recalibration(
        c=best["trustworthy"].value,
        teacher=file.header.teacher,
        n_valid=len(correct_N),
        mass=float(probs_NK.sum(-1).mean()),
        accuracy=float(correct_N.mean()),
        ece_before=ece(probs_NK[:, 0], correct_N),
        ece_after=best["trustworthy"].ece,
        values={way: choice.value for way, choice in best.items()},
        ece={way: choice.ece for way, choice in best.items()},
        grid=best["trustworthy"].grid,
    )
    publish_json(scores, found.model_dump(mode="json"))


if __name__ == "__main__":
    run_stage(main)
