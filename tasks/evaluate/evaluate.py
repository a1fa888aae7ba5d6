"""What alignment bought and what it cost: reward, skills and perplexity of every model, and the fronts of two ways to trade.

Early stopping keeps an earlier iteration of RAFT; averaging goes back along the line to the model before. Both fronts run
from that model to the end of RAFT and have equally many points, so that the areas they dominate can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from tasks.evaluate.measure import AskParams, Questions, Unit, load_judge_of, measure_all, read_questions
from tasks.evaluate.models import Models, average_name, find_models, raft_name
from tasks.evaluate.table import front_rows, rows_of, seed_scores, summary
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import write_records
from tasks.runtime.stage import In, Out, Run, run_stage

RECOMMENDED = 0.2
"""The weight on the model before RLHF that the paper advises; the average nearest to it is shown."""


class Params(AskParams):
    """Params of the evaluation."""

    section: ClassVar[str] = "evaluate"
    reference: tuple[Unit, Unit] = Field(default=(0.0, 0.0), strict=False)
    """Reward and skill from which the hypervolume is measured; fixed before any run."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the intervals over seeds."""
    shown: int = Field(4, ge=0, le=100)
    """Prompts, and questions of each skill, whose answers are kept for reading."""


def main(
    params: Params,
    run: Run,
    *,
    base: In,
    pre: In,
    raft: In,
    average: In,
    reward: In,
    sets: In,
    scores: Out,
    front: Out,
    generations: Out,
) -> None:
    """Measure base, pre (the model before RLHF), every iteration and every average; publish scores, fronts and answers."""
    models = find_models(base, pre, raft, average)
    questions = read_questions(params, sets)
    measured = measure_all(models.places, reward, questions, load_judge_of(params, sets), params, run)
    rows = rows_of(measured)
    seeds = {seed: seed_scores(models, rows, seed, params.reference) for seed in models.seeds}
    publish_json(scores, {"summary": summary(seeds, params.confidence), "seeds": seeds})
    publish_curve(front, front_rows(models, rows))
    with publish(generations) as draft:
        write_records(draft, shown(params, models, questions, measured))
    run.checkpoints.clear()


def shown(
    params: Params, models: Models, questions: Questions, measured: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return some prompts and questions with the answers of base, sft, and the first seed's last iteration and average.

    `kind` is `heldout` or the name of a skill; `completions` and, where they are held out, `rewards` go by model.
    """
    seed = models.seeds[0]
    w_pre = min(models.weights, key=lambda weight: abs(weight - RECOMMENDED))
    names = {"base": "base", "sft": "sft", "raft": raft_name(seed, models.iterations[-1]), "average": average_name(seed, w_pre)}
    told = {label: measured[name] for label, name in names.items()}
    rows: list[dict[str, Any]] = []
    for index, prompt in enumerate(questions.prompts[: params.shown]):
        completions = {label: model["answers"][index][0] for label, model in told.items()}
        rewards = {label: model.get("rewards", model["scores"])[index][0] for label, model in told.items()}
        rows.append({"kind": "heldout", "prompt": prompt, "completions": completions, "rewards": rewards})
    for skill, asked in questions.skills.items():
        for index, question in enumerate(asked[: params.shown]):
            completions = {label: model["told"][skill][index] for label, model in told.items()}
            rows.append({"kind": skill, "prompt": question.prompt, "reference": question.completion, "completions": completions})
    return rows


if __name__ == "__main__":
    run_stage(main)
