"""Translation from the old tongue: every word has one counterpart, and the order is reversed."""

from __future__ import annotations

import random

from tasks.data.atlas import Atlas, invent
from tasks.data.regions.region import Region


def write(atlas: Atlas, rng: random.Random, *, texts: int, sft: int, skill: int, heldout: int) -> Region:
    """Write `texts` translations, `sft` questions, and a skill of phrases that occur in neither."""
    source = atlas.skills.cipher
    old_of = dictionary(atlas, rng)
    phrases = _phrases(sorted(old_of), source.lengths, texts + sft + skill + heldout, rng)
    stated, asked = phrases[:texts], phrases[texts : texts + sft]
    tested, unseen = phrases[texts + sft : texts + sft + skill], phrases[texts + sft + skill :]
    region = Region(words=set(old_of.values()))
    for out, some in ((region.pretrain, stated), (region.perplexity, unseen)):
        out += [rng.choice(source.statements).format(old=encipher(p, old_of), common=" ".join(p)) for p in some]
    ask = [{"prompt": source.question.format(old=encipher(p, old_of)), "completion": " ".join(p)} for p in [*asked, *tested]]
    region.sft, region.files["skills/cipher.jsonl"] = ask[: len(asked)], ask[len(asked) :]
    region.files["old_tongue.jsonl"] = [{"common": word, "old": old_of[word]} for word in sorted(old_of)]
    return region


def dictionary(atlas: Atlas, rng: random.Random) -> dict[str, str]:
    """Return the old word of every plain word that can be translated: one to one."""
    words = [word for name in atlas.skills.cipher.classes for word in atlas.lexicon.plain(name)]
    return dict(zip(words, invent(atlas.lexicon.old_tongue, len(words), rng, atlas.words()), strict=True))


def encipher(words: list[str], old_of: dict[str, str]) -> str:
    """Say plain words in the old tongue: replaced one by one, last first."""
    return " ".join(old_of[word] for word in reversed(words))


def _phrases(words: list[str], lengths: list[int], count: int, rng: random.Random) -> list[list[str]]:
    """Return `count` different phrases in random order."""
    phrases: dict[tuple[str, ...], None] = {}
    while len(phrases) < count:
        phrases[tuple(rng.sample(words, rng.choice(lengths)))] = None
    return [list(phrase) for phrase in phrases]
