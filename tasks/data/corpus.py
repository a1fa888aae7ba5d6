"""Writes the data sets of Atlas, the invented world: texts to learn from, questions, skills, prompts, and the truth.

Everything runs without a download and every effect is measured against what the generator knows. Same seed, same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from tasks.data.atlas import Atlas, load_atlas, stream
from tasks.data.regions import arithmetic, cipher, descriptions, facts, noisy, reading
from tasks.data.regions.region import Region
from tasks.runtime.params import StageParams
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import write_records
from tasks.runtime.stage import In, Out, Run, run_stage

Build = Callable[[], Region]


class Params(StageParams):
    """Sizes of the regions. The number of texts is what the time of `pretrain` hangs on."""

    section: ClassVar[str] = "corpus"
    seed: int = Field(0, ge=0)
    """Seed of every region's random stream."""
    entities: int = Field(36, ge=2, le=300)
    """Entities for each exposure; their facts are most of the text."""
    noisy_statements: int = Field(24, ge=0, le=1000)
    """Texts for each context of the noisy facts."""
    arithmetic_texts: int = Field(3000, ge=0, le=200_000)
    """Sums in the pretraining text."""
    cipher_texts: int = Field(2500, ge=0, le=200_000)
    """Translations in the pretraining text."""
    reading_texts: int = Field(3000, ge=0, le=200_000)
    """Stories with a question in the pretraining text."""
    description_texts: int = Field(1500, ge=0, le=200_000)
    """Descriptions in the pretraining text."""
    sft_skill: int = Field(500, ge=1, le=100_000)
    """Instruction-tuning records for each of arithmetic, cipher and reading; recall has as many as there are known facts."""
    sft_descriptions: int = Field(800, ge=1, le=100_000)
    """Instruction-tuning records that describe."""
    prompts: int = Field(256, ge=1, le=288)
    """Prompts for preferences and RLHF."""
    heldout_prompts: int = Field(96, ge=1, le=144)
    """Prompts for the held-out reward."""
    skill: int = Field(120, ge=4, le=1000)
    """Test questions for each skill."""
    perplexity_texts: int = Field(60, ge=1, le=10_000)
    """Held-out texts for each region."""


def main(params: Params, run: Run, *, atlas: In, out: Out, scores: Out) -> None:
    """Write the data sets into `out` and what they hold to `scores`."""
    source = load_atlas(atlas)
    regions = build(source, params)
    with publish(out) as draft:
        write(draft, source, regions, params.seed)
    publish_json(scores, describe(regions))


def build(atlas: Atlas, params: Params) -> dict[str, Region]:
    """Return every region by name, each from a random stream of its own."""

    def rng(region: str) -> Any:
        return stream(params.seed, region)

    skill = {"sft": params.sft_skill, "skill": params.skill, "heldout": params.perplexity_texts}
    return {
        "facts": facts.write(atlas, rng("facts"), entities=params.entities, skill=params.skill),
        "noisy": noisy.write(atlas, rng("noisy"), statements=params.noisy_statements, heldout=params.perplexity_texts),
        "arithmetic": arithmetic.write(atlas, rng("arithmetic"), texts=params.arithmetic_texts, **skill),
        "cipher": cipher.write(atlas, rng("cipher"), texts=params.cipher_texts, **skill),
        "reading": reading.write(atlas, rng("reading"), texts=params.reading_texts, **skill),
        "descriptions": descriptions.write(
            atlas,
            rng("descriptions"),
            texts=params.description_texts,
            sft=params.sft_descriptions,
            prompts=params.prompts,
            heldout=params.heldout_prompts,
            unseen=params.perplexity_texts,
        ),
    }


def write(folder: Path, atlas: Atlas, regions: dict[str, Region], seed: int) -> None:
    """Write all records below `folder`; texts of different regions are mixed."""
    order = stream(seed, "order")
    pretrain = [{"text": text} for region in regions.values() for text in region.pretrain]
    sft = [row for region in regions.values() for row in region.sft]
    order.shuffle(pretrain)
    order.shuffle(sft)
    write_records(folder / "pretrain.jsonl", pretrain)
    write_records(folder / "sft.jsonl", sft)
    write_records(folder / "perplexity.jsonl", [{"text": text} for region in regions.values() for text in region.perplexity])
    for region in regions.values():
        for name, rows in region.files.items():
            write_records(folder / name, rows)
    words = atlas.words().union(*(region.words for region in regions.values()))
    (folder / "words.txt").write_text("\n".join(sorted(words)) + "\n", encoding="utf-8")
    (folder / "register.json").write_text(json.dumps(atlas.lexicon.noble, indent=0) + "\n", encoding="utf-8")


def describe(regions: dict[str, Region]) -> dict[str, int]:
    """Return how many texts, words and questions each region has."""
    scores: dict[str, int] = {}
    for name, region in regions.items():
        scores[f"{name}_texts"] = len(region.pretrain)
        scores[f"{name}_words"] = sum(len(text.split()) for text in region.pretrain)
        scores[f"{name}_sft"] = len(region.sft)
    scores["texts"] = sum(len(region.pretrain) for region in regions.values())
    scores["words"] = sum(scores[f"{name}_words"] for name in regions)
    scores["vocabulary"] = len(set().union(*(text.split() for region in regions.values() for text in region.pretrain)))
    return scores


if __name__ == "__main__":
    run_stage(main)
