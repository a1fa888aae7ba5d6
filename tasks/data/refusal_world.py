"""Writes the world in which refusal has something to learn: the graded facts of Atlas alone, with many entities.

Exposure belongs to an entity and its name is one token, so that a model can read off a name whether it knows it. Beside the
facts stand the sayings of refusal, as free texts that follow no question: a model that has never met the words "unsure" or
"we do not know" would have to learn the words themselves from a few hundred verdicts. One relation is left for the test, and
two kinds of questions nobody can answer: about names that no text tells of, and about words that are no one's name.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from tasks.data.atlas import WORD, Atlas, invent, load_atlas, stream
from tasks.data.regions import facts
from tasks.data.regions.region import Region, Rows
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import REFUSALS, SENTENCE, SURE, UNSURE

NAMELESS, FALSE = "unheard name", "false premise"
"""The kinds of questions nobody can answer: the entity was never told of; the word is no entity's name but an answer's."""


class Params(StageParams):
    """Size of the world."""

    section: ClassVar[str] = "refusal-world"
    seed: int = Field(0, ge=0)
    """Seed of names, facts and texts."""
    exposures: list[Annotated[int, Field(ge=0, le=1000)]] = Field(default=[0, 0, 0, 1, 2, 4, 8, 16], min_length=2)
    """Times that the facts of an entity are told; one that stands here twice has twice as many entities."""
    entities: int = Field(42, ge=2, le=300)
    """Entities for each of those; every second one is for training, the others for the test."""
    relation: str = "colour"
    """The relation that is told as all others are, but asked in the test alone: what is out of training's domain."""
    unanswerable: int = Field(32, ge=1, le=100)
    """Questions of each kind that nobody can answer."""
    sayings: int = Field(300, ge=0, le=100_000)
    """Free texts of verdicts and refusals; half the verdicts are sure ones, so they tell nothing of any question."""
    heldout: int = Field(64, ge=1)
    """Texts of which the base model's perplexity is measured; they are texts it has learned, as facts cannot be guessed."""


def main(params: Params, run: Run, *, atlas: In, out: Out, scores: Out) -> None:
    """Write `out`: pretrain.jsonl, perplexity.jsonl, facts.jsonl, unanswerable.jsonl and words.txt."""
    source = told(load_atlas(atlas), params)
    region = facts.write(source, stream(params.seed, "refusal"), entities=params.entities, skill=1)
    region.pretrain += sayings(stream(params.seed, "sayings"), params.sayings)
    region.files["unanswerable.jsonl"] = unanswerable(source, region, params)
    region.files["facts.jsonl"] = kept = questions(region.files["facts.jsonl"], params.relation)
    with publish(out) as draft:
        write(draft, source, region, params)
    asked = sum(fact["asked"] for fact in kept)
    counts = {"texts": len(region.pretrain), "facts": len(kept), "asked": asked}
    publish_json(scores, {**counts, "unanswerable": len(region.files["unanswerable.jsonl"])})


def told(atlas: Atlas, params: Params) -> Atlas:
    """Return the source with the exposures of `params`. Raises UserError for a held-out relation that it does not have."""
    if params.relation not in atlas.facts.relations:
        raise UserError(
            f"refusal-world.relation: no '{params.relation}' in facts.yaml; it has {', '.join(atlas.facts.relations)}"
        )
    return atlas.model_copy(update={"facts": atlas.facts.model_copy(update={"exposures": params.exposures})})


def questions(rows: Rows, heldout: str) -> Rows:
    """Return the facts that are asked: in training none of the relation `heldout`, nor in the test one of a trained entity."""
    return [row for row in rows if not (row["asked"] and row["relation"] == heldout)]


def sayings(rng: random.Random, count: int) -> list[str]:
    """Return `count` texts, every third a verdict after the sentence that asks for it, the others refusals."""
    verdicts = [f"{SENTENCE} {verdict}" for verdict in (SURE, UNSURE)]
    return [verdicts[n // 3 % 2] if n % 3 == 0 else f"{rng.choice(REFUSALS)}." for n in range(count)]


def unanswerable(atlas: Atlas, region: Region, params: Params) -> Rows:
    """Return questions without an answer, `params.unanswerable` of each kind, over all relations but the held-out one."""
    rng = stream(params.seed, "unanswerable")
    names = invent(atlas.lexicon.names, params.unanswerable, rng, atlas.words() | region.words)
    things = sorted({str(fact["completion"]) for fact in region.files["facts.jsonl"]})
    region.words |= set(names)
    forms = [form.question for relation, form in atlas.facts.relations.items() if relation != params.relation]
    asked = {
        NAMELESS: [(name, forms[n % len(forms)]) for n, name in enumerate(names)],
        FALSE: rng.sample([(thing, form) for thing in things for form in forms], params.unanswerable),
    }
    return [
        {"prompt": form.format(name=word), "kind": kind, "name": word} for kind, pairs in asked.items() for word, form in pairs
    ]


def write(folder: Path, atlas: Atlas, region: Region, params: Params) -> None:
    """Write the region's texts and questions, and every word that a model of this world must be able to write."""
    order = stream(params.seed, "refusal order")
    texts = order.sample(region.pretrain, len(region.pretrain))
    write_records(folder / "pretrain.jsonl", [{"text": text} for text in texts])
    write_records(folder / "perplexity.jsonl", [{"text": text} for text in texts[: params.heldout]])
    for name in ("facts.jsonl", "unanswerable.jsonl"):
        write_records(folder / name, region.files[name])
    spoken = {word for text in (SENTENCE, SURE, UNSURE, *REFUSALS) for word in WORD.findall(text.lower())}
    (folder / "words.txt").write_text("\n".join(sorted(atlas.words() | region.words | spoken)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
