"""Descriptions in a mixed register: what people's preference is about, and what alignment changes.

Plain and noble words stand for each other word by word; a description leans to one of them by a share of its own. So samples
differ enough for the best of a few to be better, and what is rewarded is the choice of every content word.
"""

from __future__ import annotations

import random

from tasks.data.atlas import SLOT, Atlas, Descriptions
from tasks.data.regions.region import Region

Subject = tuple[str, str]


def write(atlas: Atlas, rng: random.Random, *, texts: int, sft: int, prompts: int, heldout: int, unseen: int) -> Region:
    """Write `texts` descriptions, `sft` prompts with one, and `prompts` and `heldout` prompts on other subjects than these.

    A subject is an aspect of a place. Two fifths are for instruction tuning and pretraining, two fifths for the prompts that
    alignment trains on, one fifth is held out; the last two overlap with nothing. `unseen` texts are kept for perplexity.
    """
    source, lexicon = atlas.descriptions, atlas.lexicon
    subjects = [(aspect, place) for aspect in lexicon.plain("aspect") for place in lexicon.plain("place")]
    rng.shuffle(subjects)
    fifth = len(subjects) // 5
    tuned, trained, tested = subjects[: 2 * fifth], subjects[2 * fifth : 4 * fifth], subjects[4 * fifth :]
    region = Region()
    region.sft = [_answered(atlas, rng.choice(tuned), rng) for _ in range(sft)]
    region.pretrain = [" ".join(_answered(atlas, rng.choice(tuned), rng).values()) for _ in range(texts)]
    region.perplexity = [" ".join(_answered(atlas, rng.choice(tested), rng).values()) for _ in range(unseen)]
    region.files["prompts.jsonl"] = [{"prompt": prompt} for prompt in _prompts(source, trained, prompts, rng)]
    region.files["heldout.jsonl"] = [{"prompt": prompt} for prompt in _prompts(source, tested, heldout, rng)]
    return region


def _answered(atlas: Atlas, subject: Subject, rng: random.Random) -> dict[str, str]:
    """Return a prompt about a subject with a description."""
    return {"prompt": _ask(rng.choice(atlas.descriptions.prompts), subject), "completion": describe(atlas, subject, rng)}


def describe(atlas: Atlas, subject: Subject, rng: random.Random) -> str:
    """Write one description of a subject, each slot in the noble register with the description's own probability."""
    source = atlas.descriptions
    leaning = rng.uniform(*source.leaning)
    aspect, place = subject
    sentences = [source.opening.replace("{aspect}", aspect).replace("{place}", place)]
    sentences += rng.sample(source.sentences, min(rng.choice(source.lengths), len(source.sentences)))
    words = [_fill(atlas, word, leaning, rng) for word in " ".join(sentences).split()]
    return " ".join(words)


def _fill(atlas: Atlas, word: str, leaning: float, rng: random.Random) -> str:
    """Fill a slot, or keep a word, in the register drawn for it."""
    if slot := SLOT.fullmatch(word):
        word = _plain(atlas, slot[1], rng)
    return atlas.lexicon.noble[word] if word in atlas.lexicon.noble and rng.random() < leaning else word


def _plain(atlas: Atlas, slot: str, rng: random.Random) -> str:
    return str(rng.randint(*atlas.descriptions.numbers)) if slot == "number" else rng.choice(atlas.lexicon.plain(slot))


def _ask(template: str, subject: Subject) -> str:
    return template.format(aspect=subject[0], place=subject[1])


def _prompts(source: Descriptions, subjects: list[Subject], count: int, rng: random.Random) -> list[str]:
    """Return up to `count` different prompts about `subjects`."""
    every = [_ask(template, subject) for template in source.prompts for subject in subjects]
    return rng.sample(every, min(count, len(every)))
