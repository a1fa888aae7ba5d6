"""Reading from context: which container holds what is new in every story, so the answer can only come from the prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tasks.data.atlas import Atlas, Reading
from tasks.data.regions.region import Region

Story = tuple[tuple[str, str], ...]


def write(atlas: Atlas, rng: random.Random, *, texts: int, sft: int, skill: int, heldout: int) -> Region:
    """Write `texts` stories with their question, `sft` questions, and a skill of stories that occur in neither."""
    source = atlas.skills.reading
    stories = _stories(source, atlas.lexicon.plain(source.content), texts + sft + skill + heldout, rng)
    filled = [_fill(source, story, rng) for story in stories]
    ask = [{"prompt": source.question.format(**slots), "completion": slots["content"]} for slots in filled]
    tell = [rng.choice(source.statements).format(**slots) for slots in filled]
    region = Region()
    region.pretrain, region.sft = tell[:texts], ask[texts : texts + sft]
    region.files["skills/reading.jsonl"] = ask[texts + sft : texts + sft + skill]
    region.perplexity = tell[texts + sft + skill :]
    return region


def _stories(source: Reading, contents: list[str], count: int, rng: random.Random) -> list[Story]:
    """Return `count` different stories in random order."""
    stories: dict[Story, None] = {}
    while len(stories) < count:
        containers = rng.sample(source.containers, source.pairs)
        stories[tuple(zip(containers, rng.sample(contents, source.pairs), strict=True))] = None
    return list(stories)


def _fill(source: Reading, story: Story, rng: random.Random) -> dict[str, str]:
    """Return the slots of a story's templates, with one of its containers to be asked about."""
    container, content = rng.choice(story)
    told, again = (_tell(source.sentence, order) for order in (story, rng.sample(story, len(story))))
    return {"story": told, "again": again, "container": container, "content": content}


def _tell(sentence: str, story: Sequence[tuple[str, str]]) -> str:
    return " ".join(sentence.format(container=container, content=content) for container, content in story)
