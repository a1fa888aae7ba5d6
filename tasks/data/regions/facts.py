"""Facts with graded exposure: what the base model knows is set by how often it was told.

Exposure belongs to the entity and its name is one token, so that familiarity can be read from the representation: the world
in which refusal and confidence have something to learn (with names of shared tokens a probe finds nothing).
Every fact of an entity is stated exactly `exposure` times; half of the entities are never asked about in instruction tuning.
"""

from __future__ import annotations

import random

from tasks.data.atlas import Atlas, Relation, invent
from tasks.data.regions.region import Region, Rows

KNOWN = 8
"""Facts stated at least this often, and asked in instruction tuning, are the skill `recall`: what alignment may make forget."""


def write(atlas: Atlas, rng: random.Random, *, entities: int, skill: int) -> Region:
    """Write the region with `entities` names for each exposure; `skill` bounds the number of recall questions."""
    source = atlas.facts
    names = invent(atlas.lexicon.names, entities * len(source.exposures), rng, atlas.words())
    region = Region(words=set(names))
    facts: Rows = []
    for index, name in enumerate(names):
        exposure, asked = source.exposures[index % len(source.exposures)], index // len(source.exposures) % 2 == 0
        for relation, form in source.relations.items():
            answer = rng.choice(atlas.lexicon.plain(form.object))
            facts.append(_fact(name, relation, form, answer, exposure, asked))
            region.pretrain += [_state(atlas, form, name, answer, rng) for _ in range(exposure)]
    region.files["facts.jsonl"] = facts
    known = [fact for fact in facts if fact["exposure"] >= KNOWN and fact["asked"]]
    region.sft = [{"prompt": fact["prompt"], "completion": fact["completion"]} for fact in known]
    region.files["skills/recall.jsonl"] = rng.sample(known, min(skill, len(known)))
    return region


def _fact(name: str, relation: str, form: Relation, answer: str, exposure: int, asked: bool) -> dict[str, object]:
    """Return a fact as a record; `asked` says whether instruction tuning may ask about its entity."""
    question, probe = form.question.format(name=name), form.probe.format(name=name)
    place = {"entity": name, "relation": relation, "exposure": exposure, "asked": asked}
    return {"prompt": question, "completion": answer, "probe": probe, **place}


def _state(atlas: Atlas, form: Relation, name: str, answer: str, rng: random.Random) -> str:
    """State a fact once, as a sentence or as a question with its answer."""
    question = atlas.facts.question_form.format(question=form.question.format(name=name), object=answer)
    return rng.choice([*form.statements, question]).format(name=name, object=answer)
