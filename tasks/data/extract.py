"""Takes the theorems out of Lean files: the first stage of aligned data from a library or a project of one's own.

Nothing is lost in silence: every declaration is a record or a reject with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tasks.data.lean.extract import LeanFile, extract, read_folder
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Record, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage


class LeanText(Record):
    """A Lean file as a record."""

    file: str = Field(min_length=1)
    text: str


class Params(StageParams):
    """What is kept."""

    section: ClassVar[str] = "extract"
    commit: str = ""
    """Commit of the files' repository, for the records."""
    unfinished: bool = False
    """Whether theorems whose proof holds `sorry` are kept too."""


def main(params: Params, run: Run, *, lean: In, out: Out, scores: Out) -> None:
    """Write the theorems of `lean` (a folder of Lean files, or JSON Lines of `file` and `text`) and the rejects into `out`."""
    found = extract(files(lean), params.commit)
    unfinished = [theorem for theorem in found.theorems if theorem.Sorry]
    kept = [theorem for theorem in found.theorems if params.unfinished or not theorem.Sorry]
    if not kept:
        raise UserError(f"{lean}: holds no finished theorem ({len(unfinished)} unfinished, {len(found.rejected)} rejected)")
    with publish(out) as draft:
        write_records(draft / "theorems.jsonl", (theorem.model_copy(update={"idx": place}) for place, theorem in enumerate(kept)))
        write_records(draft / "rejected.jsonl", found.rejected)
        write_records(draft / "unfinished.jsonl", [] if params.unfinished else unfinished)
    told = [theorem for theorem in kept if theorem.Informal_statement and theorem.Informal_proof]
    counts = {"theorems": len(kept), "with_words": len(told), "unfinished": len(unfinished)}
    publish_json(scores, {**counts, "rejected": dict(found.reasons()), "kinds": dict(Counter(one.Kind for one in kept))})


def files(lean: Path) -> Iterator[LeanFile]:
    """Yield the Lean files of a folder, or of JSON Lines, in order."""
    if lean.is_dir():
        yield from read_folder(lean)
        return
    for row in read_records(lean, LeanText):
        yield LeanFile(row.file, row.text.encode())


if __name__ == "__main__":
    run_stage(main)
