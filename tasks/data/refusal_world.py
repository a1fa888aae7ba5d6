"""Writes the world in which refusal has something to learn: the graded facts of Atlas alone, with many entities.

Exposure belongs to an entity and its name is one token, so that a model can read off a name whether it knows it. The words of
the verdicts and refusals are in the vocabulary, though no text of the world uses them.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tasks.data.atlas import WORD, Atlas, load_atlas, stream
from tasks.data.regions import facts
from tasks.data.regions.region import Region
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import write_records
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.verdicts import REFUSALS, SENTENCE, SURE, UNSURE


class Params(StageParams):
    """Size of the world."""

    section: ClassVar[str] = "refusal-world"
    seed: int = Field(0, ge=0)
    """Seed of names, facts and texts."""
    entities: int = Field(48, ge=2, le=300)
    """Entities for each exposure; every second one is for training, the others for the test."""
    heldout: int = Field(64, ge=1)
    """Texts of which the base model's perplexity is measured; they are texts it has learned, as facts cannot be guessed."""


def main(params: Params, run: Run, *, atlas: In, out: Out, scores: Out) -> None:
    """Write `out`: pretrain.jsonl, perplexity.jsonl, facts.jsonl and words.txt."""
    source = load_atlas(atlas)
    region = facts.write(source, stream(params.seed, "refusal"), entities=params.entities, skill=1)
    with publish(out) as draft:
        write(draft, source, region, params)
    asked = [fact for fact in region.files["facts.jsonl"] if fact["asked"]]
    publish_json(scores, {"texts": len(region.pretrain), "facts": len(region.files["facts.jsonl"]), "asked": len(asked)})


def write(folder: Path, atlas: Atlas, region: Region, params: Params) -> None:
    """Write the region's texts and facts, and every word that a model of this world must be able to write."""
    order = stream(params.seed, "refusal order")
    texts = order.sample(region.pretrain, len(region.pretrain))
    write_records(folder / "pretrain.jsonl", [{"text": text} for text in texts])
    write_records(folder / "perplexity.jsonl", [{"text": text} for text in texts[: params.heldout]])
    write_records(folder / "facts.jsonl", region.files["facts.jsonl"])
    spoken = {word for text in (SENTENCE, SURE, UNSURE, *REFUSALS) for word in WORD.findall(text.lower())}
    (folder / "words.txt").write_text("\n".join(sorted(atlas.words() | region.words | spoken)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_stage(main)
