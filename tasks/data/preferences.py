"""Makes preference pairs: what the policy says, judged, the better answer first.

The judge is a function of the response (Atlas: its graded reward; real data: the record's own answer against the policy's,
or the share of different words where there is no reference), so where a preference comes from is always known.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

from pydantic import Field

from tasks.runtime.judges import Judge, distinct_words, load_judge
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish, publish_json
from tasks.runtime.records import Completion, Preference, Prompt, read_records, write_records
from tasks.runtime.stage import In, Out, Run, run_stage


class Params(StageParams):
    """Where preferences come from, and how the policy is sampled."""

    section: ClassVar[str] = "preferences"
    seed: int = Field(0, ge=0)
    """Seed of sampling, noise and the split."""
    threads: int = Field(2, ge=1, le=64)
    """CPU threads of the stage."""
    judge: Literal["atlas", "reference", "diversity", "given"] = "atlas"
    """Who prefers: the reward of Atlas; the record's own completion over the policy's; more different words; the records."""
    prompts: int = Field(256, ge=2)
    """Prompts taken from prompts.jsonl, from the top."""
    pairs: int = Field(2, ge=1, le=16)
    """Pairs for each prompt; each pair has two samples of its own, or, for `reference`, one."""
    noise: float = Field(0.0, ge=0, le=10)
    """Standard deviation of what is added to each reward before two are compared: people do not agree with themselves."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Temperature of the policy's samples."""
    max_new_tokens: int = Field(48, ge=1, le=4096)
    """Longest sample, in tokens."""
    batch_size: int = Field(128, ge=1, le=4096)
    """Samples drawn side by side."""
    test_share: float = Field(0.15, gt=0, lt=1)
    """Share of the prompts whose pairs are held out."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; without scores the first is the better one by its source."""

    prompt: str
    first: str
    second: str
    scores: tuple[float, float] | None = None


def main(params: Params, run: Run, *, policy: In, sets: In, out: Out, scores: Out) -> None:
    """Write `train.jsonl` and `test.jsonl` to the folder `out`, and what they hold to `scores`."""
    pairs = judged(collect(params, run, policy, sets), params, sets)
    rows = split([record for pair in pairs if (record := in_order(pair))], params)
    with publish(out) as draft:
        for name, records in rows.items():
            write_records(draft / f"{name}.jsonl", records)
    publish_json(scores, describe(rows, ties=len(pairs) - sum(map(len, rows.values()))))


def collect(params: Params, run: Run, policy: Path, sets: Path) -> list[Pair]:
    """Return the pairs to be judged: given ones, answers of the records against samples, or samples against samples."""
    path = sets / "prompts.jsonl"
    if params.judge == "given":
        return [Pair(row.prompt, row.chosen, row.rejected) for row in read_records(path, Preference)[: params.prompts]]
    if params.judge == "reference":
        rows = read_records(path, Completion)[: params.prompts]
        samples = sample(params, run, policy, [row.prompt for row in rows], params.pairs)
        return [Pair(row.prompt, row.completion, text) for row, texts in zip(rows, samples, strict=True) for text in texts]
    prompts = [row.prompt for row in read_records(path, Prompt)[: params.prompts]]
    samples = sample(params, run, policy, prompts, 2 * params.pairs)
    return [
        Pair(prompt, texts[start], texts[start + 1])
        for prompt, texts in zip(prompts, samples, strict=True)
        for start in range(0, 2 * params.pairs, 2)
    ]


def sample(params: Params, run: Run, policy: Path, prompts: list[str], samples: int) -> list[list[str]]:
    """Return `samples` completions of every prompt by the policy."""
    from tasks.runtime.generate import generate
    from tasks.runtime.models import load_causal, set_determinism

    set_determinism(params.seed, params.threads)
    model, tokenizer = load_causal(policy)
    return generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=samples,
        seed=params.seed,
        batch_size=params.batch_size,
        progress=run.progress(len(prompts) * samples, "samples"),
    )


def judged(pairs: list[Pair], params: Params, sets: Path) -> list[Pair]:
    """Return the pairs with the judge's scores, or as they are where the source has said which answer is better."""
    if params.judge in ("given", "reference"):
        return pairs
    judge: Judge = load_judge(sets) if params.judge == "atlas" else distinct_words
    noise = random.Random(f"{params.seed}/noise")

    def score(prompt: str, response: str) -> float:
        return judge(prompt, response) + noise.gauss(0, params.noise)

    return [replace(pair, scores=(score(pair.prompt, pair.first), score(pair.prompt, pair.second))) for pair in pairs]


def in_order(pair: Pair) -> dict[str, Any] | None:
    """Return a pair as a record, the better answer first; None for a tie, equal texts, or an empty answer."""
    first, second = pair.first.strip(), pair.second.strip()
    scores = pair.scores or (1.0, 0.0)
    if first == second or not first or not second or scores[0] == scores[1]:
        return None
    chosen, rejected = (first, second) if scores[0] > scores[1] else (second, first)
    record: dict[str, Any] = {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}
    return record | ({"score_chosen": max(scores), "score_rejected": min(scores)} if pair.scores else {})


def split(records: list[dict[str, Any]], params: Params) -> dict[str, list[dict[str, Any]]]:
    """Return the records as `train` and `test`; all pairs of a prompt fall on one side. Raises UserError when one is empty."""
    prompts = sorted({record["prompt"] for record in records})
    random.Random(f"{params.seed}/split").shuffle(prompts)
    tested = set(prompts[: max(1, round(len(prompts) * params.test_share))])
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for record in records:
        rows["test" if record["prompt"] in tested else "train"].append(record)
    if not all(rows.values()):
        raise UserError(
            f"preferences: only {len(prompts)} prompts have a pair that is no tie, too few for a training and a test part; "
            "raise preferences.prompts, pairs or temperature, or choose another judge"
        )
    return rows


def describe(rows: dict[str, list[dict[str, Any]]], ties: int) -> dict[str, float]:
    """Return the number of pairs, ties left out, mean words of both sides, and mean rewards where a judge gave them."""
    records = [record for part in rows.values() for record in part]
    scores: dict[str, float] = {f"{name}_pairs": len(part) for name, part in rows.items()}
    scores |= {"pairs": len(records), "ties": ties}
    for side in ("chosen", "rejected"):
        scores[f"{side}_words"] = fmean(len(record[side].split()) for record in records)
        if f"score_{side}" in records[0]:
            scores[f"{side}_reward"] = fmean(record[f"score_{side}"] for record in records)
    return scores


if __name__ == "__main__":
    run_stage(main)
