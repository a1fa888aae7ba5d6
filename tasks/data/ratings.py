"""Makes the world of wishes, where two rewards conflict: records to learn from, ratings of answers, prompts, and the truth.

Ratings come from sources that each rate their own attributes, with noise. Before anything is trained an oracle that knows the
truth checks that the directions conflict: if it picked answers of one length for all of them, no policy could show a difference.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.data.regions.wishes import TALK, THINGS, WORLD, answer, prompts
from tasks.runtime.directions import ATTRIBUTES, SYSTEM, along, system_prompt
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import write_records
from tasks.runtime.stage import Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Rows = list[dict[str, Any]]

SOURCES = {"helpers": ("helpfulness",), "stylists": ("verbosity",), "both": ATTRIBUTES}
"""What each source of ratings rates; the rest of its rows is null."""
ORACLE_ANGLES = (-45.0, 0.0, 45.0)
CONFLICT = 1.0
"""Words by which the mean lengths of the oracle's choices must at least differ between neighbouring angles."""
PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
ROLES = ("<system>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} "
    "{% if message['role'] == 'assistant' %}<eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Params(StageParams):
    """Sizes of the world."""

    section: ClassVar[str] = "dpa-data"
    seed: int = Field(0, ge=0)
    """Seed of every record."""
    sft: int = Field(30_000, ge=8, le=1_000_000)
    """Prompts with an answer and a direction that tells nothing of it."""
    rated: int = Field(24_000, ge=8, le=1_000_000)
    """Rated answers to learn from."""
    heldout_rated: int = Field(400, ge=8, le=100_000)
    """Rated answers to measure a reward model on."""
    noise: float = Field(5.0, ge=0, le=50)
    """Standard deviation of a rating around the truth."""
    prompts: int = Field(600, ge=2, le=100_000)
    """Prompts for RLHF."""
    heldout: int = Field(64, ge=2, le=10_000)
    """Prompts for measuring."""
    validation: int = Field(64, ge=2, le=10_000)
    """Prompts for choosing what a rival needs chosen, apart from those for measuring."""
    samples: int = Field(8, ge=2, le=256)
    """Answers to each held-out prompt of which the oracle picks one."""


def main(params: Params, run: Run, *, out: Out, scores: Out) -> None:
    """Check the conflict, then write all records, the truth and the tokenizer to the folder `out`, and counts to `scores`."""
    taken: set[frozenset[str]] = set()
    rng = random.Random(f"{params.seed}/wishes")
    heldout = prompts(rng, params.heldout, taken)
    lengths = oracle(heldout, params.samples, random.Random(f"{params.seed}/oracle"))
    files = {"heldout": [{"prompt": text} for text in heldout]}
    files["prompts"] = [{"prompt": text} for text in prompts(rng, params.prompts, taken)]
    files["sft"] = conversations(rng, prompts(rng, params.sft, taken))
    files["ratings"] = rated(rng, prompts(rng, params.rated, taken), params.noise)
    files["ratings-test"] = rated(rng, prompts(rng, params.heldout_rated, taken), params.noise)
    files["validation"] = [{"prompt": text} for text in prompts(rng, params.validation, taken)]
    with publish(out) as draft:
        for name, rows in files.items():
            write_records(draft / f"{name}.jsonl", rows)
        WORLD.save(draft)
        world_tokenizer().save_pretrained(draft / "tokenizer")
    publish_json(scores, {"oracle_words": lengths, **describe(files)})


def oracle(heldout: Sequence[str], samples: int, rng: random.Random) -> dict[str, float]:
    """Return the mean words of the best of `samples` answers by the true ratings, for each of ORACLE_ANGLES.

    Raises UserError when the lengths do not rise with the angle: then the rewards do not conflict, and one answer suits all.
    """
    drawn = [(prompt, [answer(rng, prompt) for _ in range(samples)]) for prompt in heldout]
    lengths = {}
    for angle in ORACLE_ANGLES:
        best = [max(texts, key=lambda text: along(angle, WORLD.ratings(prompt, text))) for prompt, texts in drawn]
        lengths[f"{angle:g}"] = fmean(len(text.split()) for text in best)
    check_conflict(list(lengths.values()))
    return lengths


def check_conflict(words: Sequence[float]) -> None:
    """Raise UserError unless each of the oracle's mean lengths is CONFLICT words above the one before."""
    if any(after < before + CONFLICT for before, after in pairwise(words)):
        said = ", ".join(f"{count:.1f}" for count in words)
        raise UserError(
            f"the oracle's choices at {', '.join(f'{angle:g}' for angle in ORACLE_ANGLES)} degrees have {said} words on average: "
            "the rewards do not conflict, so no direction can be told from another; raise dpa-data.samples or change the world"
        )


def conversations(rng: random.Random, asked: Sequence[str]) -> Rows:
    """Return one conversation a prompt: the system turn of a random angle, the wishes, an answer to the wishes alone."""
    rows: Rows = []
    for prompt in asked:
        angle = rng.uniform(-45, 45)
        turns = (("system", system_prompt(angle)), ("user", prompt), ("assistant", answer(rng, prompt)))
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns], "angle": angle})
    return rows


def rated(rng: random.Random, asked: Sequence[str], noise: float) -> Rows:
    """Return one rated answer a prompt: what its source does not rate is null."""
    rows: Rows = []
    for prompt in asked:
        text, source = answer(rng, prompt), rng.choice(list(SOURCES))
        seen = {name: value + rng.gauss(0, noise) for name, value in WORLD.ratings(prompt, text).items()}
        ratings = {name: seen[name] if name in SOURCES[source] else None for name in ATTRIBUTES}
        rows.append({"prompt": prompt, "response": text, "ratings": ratings, "source": source})
    return rows


def describe(files: dict[str, Rows]) -> dict[str, float]:
    """Return the number of records of each file, the share of ratings that are null, and how the true ratings spread."""
    rows = files["ratings"]
    missing = fmean(row["ratings"][name] is None for row in rows for name in ATTRIBUTES)
    truth = [WORLD.ratings(row["prompt"], row["response"]) for row in rows]
    spread = {f"true_sd_{name}": pstdev(values[name] for values in truth) for name in ATTRIBUTES}
    return {**{name.replace("-", "_"): len(part) for name, part in files.items()}, "missing": missing, **spread}


def world_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word, digit and sign, and one for each standing phrase of the system prompt.

    Digits make weights that were never trained readable through their neighbours.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [PAD, UNK, BOS, EOS, *ROLES, *"0123456789", "-", *THINGS, *TALK]
    tokenizer = Tokenizer(models.WordLevel({entry: number for number, entry in enumerate(entries)}, unk_token=UNK))
    split = [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in SYSTEM.split("{}")[:2]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=64,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


if __name__ == "__main__":
    run_stage(main)
