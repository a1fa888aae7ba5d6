"""What a run found, as one JSON: headline numbers, the table of models, the claims and every stage's scores.

Only what the stages measured goes in, nothing of when, where or how fast, so that the same numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

Scores = Mapping[str, Any]
ADVISED = 0.2
"""The weight on the model before RLHF that the paper advises; the headline names the average nearest to it."""
MEASURES = ("reward", "skill", "perplexity", "distinct")
"""What the evaluation averages over seeds, in the order of the table."""


def summarise(stages: Mapping[str, Scores], evaluation: Scores, claims: Scores) -> dict[str, Any]:
    """Return the summary of a run from the scores of its stages, of the evaluation, and the claims ledger."""
    models = model_rows(evaluation)
    return {
        "headline": headline(models, evaluation, claims),
        "models": models,
        "claims": list(claims["claims"]),
        "scores": {name: dict(scalars(scores)) for name, scores in stages.items()},
    }


def headline(models: Sequence[Scores], evaluation: Scores, claims: Scores) -> dict[str, float]:
    """Return the numbers that stand at the top: before RLHF, after it, and averaged with the weight nearest to ADVISED."""
    by_name = {row["model"]: row for row in models}
    averages = [row["w_pre"] for row in evaluation["summary"]["average"]]
    w_pre = min(averages, key=lambda weight: abs(weight - ADVISED))
    told = {"before": "sft", "after": raft_name(evaluation["summary"]["raft"][-1]), "averaged": average_name({"w_pre": w_pre})}
    areas = evaluation["summary"]["hypervolume"]
    return {
        "seeds": len(evaluation["seeds"]),
        **{f"reward_{when}": by_name[name]["reward"]["mean"] for when, name in told.items()},
        **{f"skill_{when}": by_name[name]["skill"]["mean"] for when, name in told.items()},
        "perplexity_base": by_name["base"]["perplexity"]["mean"],
        **{f"perplexity_{when}": by_name[name]["perplexity"]["mean"] for when, name in told.items()},
        "w_pre": w_pre,
        **{f"hypervolume_{method}": area["mean"] for method, area in areas.items()},
        **{f"claims_{verdict}": claims[verdict] for verdict in ("yes", "no", "not_at_this_scale")},
    }


def model_rows(evaluation: Scores) -> list[dict[str, Any]]:
    """Return a row for base, sft, every iteration and every average: means over seeds, with intervals where there are any."""
    seeds, means = list(evaluation["seeds"].values()), evaluation["summary"]
    rows = [_row(name, means[name], [seed[name] for seed in seeds]) for name in ("base", "sft")]
    rows += [_row(raft_name(mean), mean, [seed["raft"][k] for seed in seeds]) for k, mean in enumerate(means["raft"])]
    rows += [_row(average_name(mean), mean, [seed["average"][k] for seed in seeds]) for k, mean in enumerate(means["average"])]
    return rows


def raft_name(row: Scores) -> str:
    """Return how an iteration of RAFT is called in tables."""
    return f"RAFT {row['iteration']}"


def average_name(row: Scores) -> str:
    """Return how an average is called in tables."""
    return f"average {row['w_pre']:g}"


def _row(name: str, means: Scores, seeds: Sequence[Scores]) -> dict[str, Any]:
    told = {key: value if isinstance(value := means[key], Mapping) else {"mean": value} for key in MEASURES}
    skills = {skill: fmean(seed["skills"][skill] for seed in seeds) for skill in seeds[0]["skills"]}
    return {"model": name, **told, "skills": skills}


def scalars(scores: Scores, under: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a stage by dotted name; what it keeps by seed and in lists is left to its own file."""
    for key, value in scores.items():
        if isinstance(value, Mapping) and key != "seeds":
            yield from scalars(value, f"{under}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{under}{key}", value
