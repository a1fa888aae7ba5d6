"""Noisy facts: every statement draws its answer anew from a known distribution, so the right confidence is known exactly.

There are ten answers, so that a top-5 truncation cuts something off, and the likeliest one's share differs from context to
context, so that a constant confidence is wrong.
"""

from __future__ import annotations

import random

from tasks.data.atlas import Atlas
from tasks.data.regions.region import Region, Rows


def write(atlas: Atlas, rng: random.Random, *, statements: int, heldout: int) -> Region:
    """Write `statements` texts for each context (a site in a month), and `heldout` unseen ones over all contexts."""
    source = atlas.noisy
    region = Region()
    truth: Rows = []
    for index, (site, month) in enumerate((site, month) for site in source.sites for month in source.months):
        answers = rng.sample(source.answers, len(source.answers))
        shares = distribution(source.top_shares[index % len(source.top_shares)], source.tail_ratio, len(answers))
        place = {"site": site, "month": month}
        question, probe = source.question.format(**place), source.probe.format(**place)
        truth.append({"prompt": question, "probe": probe, **place, "answers": answers, "probabilities": shares})
        forms = [*source.statements, source.question_form.replace("{question}", question)]
        draws = rng.choices(answers, shares, k=statements)
        region.pretrain += [rng.choice(forms).format(**place, answer=answer) for answer in draws]
    for _ in range(heldout):
        row = rng.choice(truth)
        answer = rng.choices(row["answers"], row["probabilities"])[0]
        region.perplexity.append(rng.choice(source.statements).format(site=row["site"], month=row["month"], answer=answer))
    region.files["noisy.jsonl"] = truth
    return region


def distribution(top: float, ratio: float, count: int) -> list[float]:
    """Return `count` probabilities that sum to 1: `top` first, the rest falling geometrically by `ratio`.

    p_1 = top; p_k = (1 - top) ratio^(k-2) / sum_j ratio^(j-2) for k, j = 2 ... count.
    """
    tail = [ratio**place for place in range(count - 1)]
    return [top, *((1 - top) * share / sum(tail) for share in tail)]
