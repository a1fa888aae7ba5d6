"""Reading from context: who and what is in a story is new in every one, so the answer can only come from the prompt.

A story has one word of each class that is asked for. Finding it takes one look back by class: a model of this size learns that
in minutes, whereas pairing a word with its neighbour (which box holds what) stayed at chance for half a million tokens.
"""

from __future__ import annotations

import random

from tasks.data.atlas import SLOT, Atlas, Lexicon, Reading
from tasks.data.regions.region import Region

Slots = dict[str, str]


def write(atlas: Atlas, rng: random.Random, *, texts: int, sft: int, skill: int, heldout: int) -> Region:
    """Write `texts` stories with some of their questions, `sft` questions, and a skill of stories that occur in neither."""
    source = atlas.skills.reading
    stories = _stories(source, atlas.lexicon, texts + sft + skill + heldout, rng)
    asked, tested = stories[texts : texts + sft], stories[texts + sft : texts + sft + skill]
    region = Region()
    region.pretrain = [_told(source, *story, rng) for story in stories[:texts]]
    region.perplexity = [_told(source, *story, rng) for story in stories[texts + sft + skill :]]
    region.sft = [_ask(source, *story, rng) for story in asked]
    region.files["skills/reading.jsonl"] = [_ask(source, *story, rng) for story in tested]
    return region


def _stories(source: Reading, lexicon: Lexicon, count: int, rng: random.Random) -> list[tuple[str, Slots]]:
    """Return `count` different stories in random order, each with the word of each of its classes."""
    stories: dict[str, Slots] = {}
    while len(stories) < count:
        template = rng.choice(source.stories)
        slots = {name: rng.choice(lexicon.plain(name)) for name in SLOT.findall(template)}
        stories[template.format(**slots)] = slots
    return list(stories.items())


def _told(source: Reading, story: str, slots: Slots, rng: random.Random) -> str:
    """Tell a story and ask some of its questions, each followed by its answer."""
    asked = rng.sample(sorted(source.questions), min(source.asked, len(source.questions)))
    return " ".join([story, *(f"{source.questions[name]} {slots[name]}" for name in asked)])


def _ask(source: Reading, story: str, slots: Slots, rng: random.Random) -> dict[str, str]:
    name = rng.choice(sorted(source.questions))
    return {"prompt": f"{story} {source.questions[name]}", "completion": slots[name]}
