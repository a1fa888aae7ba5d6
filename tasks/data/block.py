"""Block data for a prover: easy theorems first, and in front of each as many of those before it as the context takes.

From TheoremLlama (Wang et al., 2024), section 3.2. Sorted by difficulty the records form a ring of text; record i is learned
after records i-k to i-1, so a prover learns to read examples and to go from easy to hard:

    instruction = NL_{i-k}, FL_{i-k}; ...; NL_{i-1}, FL_{i-1}; NL_i        target = FL_i

Nothing is cut off: an end cut off a record is the end of its proof. A record that is too long by itself is set aside.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.runtime.blocks import blocks
from tasks.runtime.models import load_tokenizer
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import OnBadRecord, Rejects, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.theorem_prompt import Encoded, Layout, Posed, Renderer, save_layout, steps, tail

Without = Literal["nothing", "words", "inline_comments", "blocks", "curriculum"]


class Params(StageParams):
    """Order and context of the block data."""

    section: ClassVar[str] = "prover-data"
    seed: int = Field(0, ge=0)
    """Seed of the records that are drawn, and of their order without a curriculum."""
    max_length: int = Field(512, ge=16, le=1_048_576)
    """Context: most tokens of a block, its target included."""
    curriculum: bool = True
    """Whether records come in order of difficulty; else in an order drawn by the seed."""
    block: bool = True
    """Whether earlier records stand in front of the target."""
    ring: bool = True
    """Whether the first records are preceded by the last, as in the paper, or by nothing."""
    without: Without = "nothing"
    """What the paper's table leaves out, one thing at a time. `words`: prompts without words and proofs without comments.
    `inline_comments`: all comments stand before the proof. `blocks`, `curriculum`: as above."""
    records: int | None = Field(None, ge=2)
    """Training records, drawn by the seed; null takes all."""
    layout: Layout = Layout()
    """How theorems are written into prompts."""
    on_bad_record: OnBadRecord = "stop"
    """Whether a malformed line stops the stage or is set aside."""


def ablated(params: Params) -> Params:
    """Return the params with what `without` names left out."""
    changed: dict[Without, dict[str, Any]] = {
        "words": {"layout": params.layout.model_copy(update={"informal": False, "comments": "none"})},
        "inline_comments": {"layout": params.layout.model_copy(update={"comments": "head"})},
        "blocks": {"block": False},
        "curriculum": {"curriculum": False},
    }
    return params.model_copy(update=changed.get(params.without, {}))


@dataclass
class Sorted:
    """Records in their order, encoded, and those set aside with their reasons."""

    records: list[Posed] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    rejects: Rejects = field(default_factory=Rejects)


def main(params: Params, run: Run, *, records: In, tokenizer: In, out: Out, scores: Out) -> None:
    """Make block data of the training records in `records` (a file, or a folder with `records.jsonl`)."""
    params = ablated(params)
    source = records / "records.jsonl" if records.is_dir() else records
    renderer = Renderer(load_tokenizer(tokenizer), params.layout)
    rejects = Rejects()
    given = [one for one in read_records(source, Posed, params.on_bad_record, rejects) if one.split == "train"]
    if params.records is not None and params.records < len(given):
        kept = set(random.Random(params.seed).sample(range(len(given)), params.records))
        given = [one for number, one in enumerate(given) if number in kept]
    found = fitting(renderer, given, params, rejects, str(source))
    order = arranged([steps(record) for record in found.records], params)
    found.records, found.encoded = [found.records[n] for n in order], [found.encoded[n] for n in order]
    examples = examples_of(found, renderer, params) if params.block else [[] for _ in order]
    made = blocks(renderer, found.encoded, examples)
    with publish(out) as draft:
        made.save(draft)
        save_layout(params.layout, draft)
        write_records(draft / "order.jsonl", described(found.records, made.lengths.tolist(), examples))
        found.rejects.save(draft / "rejects.jsonl")
    publish_json(scores, measured(found, made.lengths.tolist(), examples, params))


def fitting(renderer: Renderer, records: Sequence[Posed], params: Params, rejects: Rejects, source: str) -> Sorted:
    """Return the records that can be learned, encoded; the others go to the rejects. Raises UserError when there is none."""
    found = Sorted(rejects=rejects)
    good = [record for record in records if not _fault(record, rejects)]
    for record, one in zip(good, renderer.encode(good), strict=True):
        length = len(renderer.before) + len(one.question) + len(renderer.after) + len(one.answer)
        if length > params.max_length:
            found.rejects.lines.append(_reject(record, "too long", f"{length} tokens, the context takes {params.max_length}"))
        else:
            found.records.append(record)
            found.encoded.append(one)
    if not found.records:
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons(found.rejects).items()) or "no training record"
        raise UserError(f"{source}: no record can be learned: {counts}; raise {params.section}.max_length or mend the records")
    return found


def _fault(record: Posed, rejects: Rejects) -> bool:
    """Say whether a record holds no proof of its statement, and set it aside if so."""
    try:
        tail(record.Commented_proof or record.Proof, record.Statement)
        return False
    except ValueError as error:
        rejects.lines.append(_reject(record, "no proof of its statement", str(error)))
        return True


def _reject(record: Posed, reason: str, detail: str) -> dict[str, Any]:
    return {"Name": record.Name, "reason": reason, "detail": detail}


def reasons(rejects: Rejects) -> dict[str, int]:
    """Return how many were set aside for each reason; malformed lines, each with a reason of its own, count together."""
    return dict(Counter(line["reason"] if "Name" in line else "malformed" for line in rejects.lines))


def arranged(difficulty: Sequence[int], params: Params) -> list[int]:
    """Return the order of the records: by difficulty, ascending, ties as they came; without curriculum drawn by the seed."""
    order = list(range(len(difficulty)))
    if params.curriculum:
        return sorted(order, key=lambda n: difficulty[n])
    random.Random(params.seed).shuffle(order)
    return order


def examples_of(found: Sorted, renderer: Renderer, params: Params) -> list[list[int]]:
    """Return for every record the numbers of those that stand in front of it, in ring order: as many as fit with it.

    Never itself nor one of the same name or proposition, which would hold its answer; they are passed over. At most all others.
    """
    count, frame = len(found.records), len(renderer.before) + len(renderer.after)
    sizes = [len(one.question) + len(one.answer) for one in found.encoded]
    shown = [size - 1 + len(renderer.separator) for size in sizes]
    names = [record.Name for record in found.records]
    stated = [record.proposition for record in found.records]
    chosen = []
    for target in range(count):
        room, back = params.max_length - frame - sizes[target], []
        for distance in range(1, count if params.ring else target + 1):
            number = (target - distance) % count
            if names[number] == names[target] or stated[number] == stated[target]:
                continue
            room -= shown[number]
            if room < 0:
                break
            back.append(number)
        chosen.append(back[::-1])
    return chosen


def described(records: Sequence[Posed], lengths: Sequence[int], examples: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Return a line for every block, for people."""
    return [
        {"Name": one.Name, "family": one.family, "steps": steps(one), "tokens": tokens, "examples": len(each)}
        for one, tokens, each in zip(records, lengths, examples, strict=True)
    ]


def measured(found: Sorted, lengths: Sequence[int], examples: Sequence[Sequence[int]], params: Params) -> dict[str, Any]:
    """Return what the stage publishes as its scores."""
    counts = [len(each) for each in examples]
    return {
        "blocks": len(lengths),
        "rejected": reasons(found.rejects),
        "tokens": sum(lengths),
        "filled": sum(lengths) / (len(lengths) * params.max_length),
        "target_tokens": sum(len(one.answer) for one in found.encoded),
        "examples_mean": sum(counts) / len(counts),
        "examples": dict(sorted(Counter(map(str, counts)).items(), key=lambda item: int(item[0]))),
        "steps": dict(sorted(Counter(str(steps(one)) for one in found.records).items(), key=lambda item: int(item[0]))),
    }


if __name__ == "__main__":
    run_stage(main)
