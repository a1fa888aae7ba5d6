"""How well a policy is led by a direction: its front of two conflicting rewards by angle and round, by truth and by model.

The reward model that selected the answers never judges alone: every number is also given with the true rating, and how far
the two part over the rounds is the hacking gap. Less talk is wanted at negative angles, so the front has two hypervolumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.evaluate import rival
from tasks.evaluate.front import hypervolume
from tasks.runtime.directions import ATTRIBUTES, along, conditioned, told
from tasks.runtime.models import load_causal, on_device, preload, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.rate import Rater, load_rater, rate
from tasks.runtime.records import Prompt, read_records
from tasks.runtime.seeds import for_each_seed
from tasks.runtime.stage import In, Out, Run, run_stage
from tasks.runtime.wishes import Wishes, load_wishes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

JUDGES = ("true", "model")
"""Who rates: the world itself, and the reward model that also selected the answers."""
REFERENCE = {"more": (0.0, 0.0), "fewer": (0.0, -100.0)}
"""Points from which the two hypervolumes are measured: (helpfulness, verbosity) and (helpfulness, -verbosity)."""
SIGN = {"more": 1, "fewer": -1}
Row = dict[str, Any]


class Params(StageParams):
    """Params of the evaluation of DPA."""

    section: ClassVar[str] = "dpa-eval"
    threads: int = Field(1, ge=1, le=64)
    """CPU threads of one seed; as many seeds run side by side as the cores allow."""
    angles: list[float] = Field(default=[-45, -33.75, -22.5, -11.25, 0, 11.25, 22.5, 33.75, 45], min_length=3)
    """Angles at which the policy is measured, in degrees, rising."""
    unseen: list[float] = Field(default=[-22.5, 22.5])
    """Those of them that were kept from training."""
    samples: int = Field(2, ge=1, le=256)
    """Answers to each held-out prompt at each angle."""
    temperature: float = Field(0.7, gt=0, le=5)
    """Sampling temperature."""
    max_new_tokens: int = Field(17, ge=1)
    """Longest answer with its end, in tokens."""
    batch_size: int = Field(512, ge=1)
    """Answers sampled or rated at once."""
    baseline_angle: float = Field(0.0, ge=-90, le=90)
    """The one angle at which the baselines were trained."""


@dataclass(frozen=True)
class Task:
    """What all measurements share."""

    params: Params
    run: Run
    policy: Path
    dpa: Path
    scalar: Path
    dpo: dict[str, Path]
    """DPO's runs by learning rate."""
    reward: Path
    prompts: Sequence[str]
    validation: Sequence[str]
    """Prompts on which DPO's rate is chosen."""
    wishes: Wishes

    def place(self, seed: int) -> Path:
        """Return where the rows of one seed are kept until all are there."""
        return self.run.checkpoints.folder / f"seed-{seed}.json"


def main(
    params: Params, run: Run, *, policy: In, dpa: In, scalar: In, dpo: In, reward: In, sets: In, scores: Out, curve: Out
) -> None:
    """Measure the policy before DPA, every round of `dpa` and the last rounds of both baselines, on `sets`/heldout.jsonl.

    Below `dpo` stands one run for each learning rate; the one that is reported is chosen on `sets`/validation.jsonl.
    """
    check_angles(params)
    preload()
    heldout, validation = (
        [record.prompt for record in read_records(sets / f"{name}.jsonl", Prompt)] for name in ("heldout", "validation")
    )
    task = Task(params, run, policy, dpa, scalar, rival.rates(dpo), reward, heldout, validation, load_wishes(sets))
    seeds = sorted(int(place.name) for place in dpa.iterdir() if place.name.isdigit())
    run.checkpoints.folder.mkdir(parents=True, exist_ok=True)
    for_each_seed(partial(measure_seed, task), seeds, params.threads)
    found = {seed: json.loads(task.place(seed).read_text(encoding="utf-8")) for seed in seeds}
    swept = rival.table((each["sweep"] for each in found.values()), params.baseline_angle)
    chosen = rival.choose(swept)
    for each in found.values():
        each["dpo"] = each["sweep"][chosen]["heldout"]
    publish_curve(curve, [{"seed": seed, **row} for seed in seeds for row in found[seed]["rows"]])
    judged = summary({str(seed): judge_seed(found[seed], params) for seed in seeds}, params)
    publish_json(scores, {**judged, "dpo_rate": float(chosen), "dpo_rates": swept})
    run.checkpoints.clear()


def check_angles(params: Params) -> None:
    """Raise UserError when the angles do not rise, or an unseen one is not among them."""
    if sorted(set(params.angles)) != params.angles:
        raise UserError("dpa-eval.angles: must rise, each angle once")
    if lost := [angle for angle in params.unseen if angle not in params.angles]:
        raise UserError(f"dpa-eval.unseen: {lost} are not among dpa-eval.angles; add them there")


def measure_seed(task: Task, seed: int) -> None:
    """Measure every round of one seed at every angle, and its baselines at theirs; the rows go to a file."""
    set_determinism(seed, task.params.threads)
    rater = load_rater(task.reward, ATTRIBUTES)
    rows: list[Row] = []
    for number, folder in enumerate([task.policy, *rounds(task.dpa / str(seed))]):
        rows += [{"round": number, **row} for row in front(task, rater, folder, task.params.angles, seed)]
    found: dict[str, Any] = {"rows": rows, "scalar": alone(task, rater, task.scalar, seed)}
    apart = replace(task, prompts=task.validation)
    found["sweep"] = {
        rate: {"validation": alone(apart, rater, place, seed), "heldout": alone(task, rater, place, seed)}
        for rate, place in task.dpo.items()
    }
    task.place(seed).write_text(json.dumps(found), encoding="utf-8")


def alone(task: Task, rater: Rater, runs: Path, seed: int) -> Row:
    """Return the row of a baseline's last round at the one angle it was trained for."""
    return front(task, rater, rounds(runs / str(seed))[-1], [task.params.baseline_angle], seed)[0]


def rounds(folder: Path) -> list[Path]:
    """Return the models of a run's rounds, first to last. Raises UserError when there is none."""
    found = sorted(folder.glob("iteration-*"), key=lambda place: int(place.name.removeprefix("iteration-")))
    if not found:
        raise UserError(f"{folder}: holds no iteration-K; run the stage dpa with this seed")
    return found


def front(task: Task, rater: Rater, folder: Path, angles: Sequence[float], seed: int) -> list[Row]:
    """Return one row for each angle: mean ratings of the policy's answers, by the truth and by the model, and their length."""
    model, tokenizer = load_causal(folder)
    words = conditioned(tokenizer)
    return [measure(task, rater, on_device(model), words, angle, seed) for angle in angles]


def measure(task: Task, rater: Rater, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, angle: float, seed: int) -> Row:
    """Return the row of one policy at one angle."""
    from tasks.runtime.generate import generate

    params = task.params
    drawn = generate(
        model,
        tokenizer,
        [told(prompt, angle) for prompt in task.prompts],
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        samples=params.samples,
        seed=seed,
        batch_size=params.batch_size,
    )
    answers = [(prompt, text) for prompt, texts in zip(task.prompts, drawn, strict=True) for text in texts]
    true = [task.wishes.ratings(*answer) for answer in answers]
    model_says = rate(rater, answers, params.batch_size)
    return {
        "angle": angle,
        "unseen": int(angle in params.unseen),
        **{name: fmean(values[name] for values in true) for name in ATTRIBUTES},
        **{f"model_{name}": fmean(values[name] for values in model_says) for name in ATTRIBUTES},
        "length": fmean(len(text.split()) for _, text in answers),
        "distinct": fmean(len(set(texts)) / len(texts) for texts in drawn),
    }


def judge_seed(found: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return what the rows of one seed say: every round, the table M of the last one, and the baselines."""
    by_round = [
        [row for row in found["rows"] if row["round"] == number] for number in sorted({row["round"] for row in found["rows"]})
    ]
    rounds = [judge_round(rows, by_round[0], params) for rows in by_round]
    last = by_round[-1]
    tables = {judge: directional(last, judge) for judge in JUDGES}
    off = {judge: dominance(table) for judge, table in tables.items()}
    baselines = {name: beside(found[name], last, params.baseline_angle) for name in ("scalar", "dpo")}
    return {"rounds": rounds, "angles": params.angles, "table": tables, "off_diagonal": off, "baselines": baselines}


def judge_round(rows: Sequence[Row], before: Sequence[Row], params: Params) -> dict[str, Any]:
    """Return one round's front gain over round 0, steerability, hypervolumes, hacking gap, and gain at unseen angles."""
    gains = {judge: [reward(row, judge) - reward(old, judge) for row, old in zip(rows, before, strict=True)] for judge in JUDGES}
    unseen = [gain for gain, row in zip(gains["true"], rows, strict=True) if row["unseen"]]
    seen = [gain for gain, row in zip(gains["true"], rows, strict=True) if not row["unseen"]]
    return {
        "round": rows[0]["round"],
        "front_gain": {judge: fmean(gains[judge]) for judge in JUDGES},
        "hacking_gap": fmean(gains["model"]) - fmean(gains["true"]),
        "gain_unseen": fmean(unseen) if unseen else None,
        "gain_seen": fmean(seen) if seen else None,
        "spearman": spearman([row["angle"] for row in rows], [row["verbosity"] for row in rows]),
        "hypervolume": {side: {judge: area(rows, judge, side) for judge in JUDGES} for side in REFERENCE},
        "length": {f"{row['angle']:g}": row["length"] for row in rows},
        "distinct": fmean(row["distinct"] for row in rows),
    }


def ratings(row: Row, judge: str) -> dict[str, float]:
    """Return a row's mean ratings by one judge."""
    return {name: row[name if judge == "true" else f"model_{name}"] for name in ATTRIBUTES}


def reward(row: Row, judge: str) -> float:
    """Return a row's mean reward along its own angle."""
    return along(row["angle"], ratings(row, judge))


def directional(rows: Sequence[Row], judge: str) -> list[list[float]]:
    """Return M[u][a]: the mean reward along angle u of the policy that is told of angle a."""
    return [[along(scored["angle"], ratings(row, judge)) for row in rows] for scored in rows]


def dominance(table: Sequence[Sequence[float]]) -> list[int]:
    """Return for each scoring angle by how many bins the best conditioned angle misses it; 0 is on the diagonal."""
    return [abs(max(range(len(row)), key=row.__getitem__) - place) for place, row in enumerate(table)]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where one of the two never moves."""
    from scipy import stats

    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def area(rows: Sequence[Row], judge: str, side: str) -> float:
    """Return the hypervolume of a round's front where more words are wanted, or fewer."""
    points = [ratings(row, judge) for row in rows]
    return hypervolume([(point[ATTRIBUTES[0]], SIGN[side] * point[ATTRIBUTES[1]]) for point in points], REFERENCE[side])


def beside(baseline: Row, rows: Sequence[Row], angle: float) -> dict[str, float]:
    """Return a baseline's true ratings and reward along its angle, and what DPA at the nearest angle has more."""
    nearest = min(rows, key=lambda row: abs(row["angle"] - angle))
    own = along(angle, ratings(baseline, "true"))
    return {**ratings(baseline, "true"), "reward": own, "dpa_lead": along(angle, ratings(nearest, "true")) - own}


def summary(seeds: dict[str, dict[str, Any]], params: Params) -> dict[str, Any]:
    """Return the scores: means over seeds of the last round, the mean table M, and everything by seed."""

    def mean(value: Callable[[dict[str, Any]], float]) -> float:
        return fmean(value(seed) for seed in seeds.values())

    each = range(len(params.angles))
    tables = {
        judge: [[mean(lambda seed: seed["table"][judge][u][a]) for a in each] for u in each]  # noqa: B023
        for judge in JUDGES
    }
    return {
        "spearman": mean(lambda seed: seed["rounds"][-1]["spearman"]),
        "front_gain": mean(lambda seed: seed["rounds"][-1]["front_gain"]["true"]),
        "front_gain_model": mean(lambda seed: seed["rounds"][-1]["front_gain"]["model"]),
        "hacking_gap": mean(lambda seed: seed["rounds"][-1]["hacking_gap"]),
        "off_diagonal": max(dominance(tables["true"])),
        "off_diagonal_model": max(dominance(tables["model"])),
        **{
            f"hypervolume_{side}": mean(lambda seed: seed["rounds"][-1]["hypervolume"][side]["true"])  # noqa: B023
            for side in REFERENCE
        },
        "scalar_lead": mean(lambda seed: seed["baselines"]["scalar"]["dpa_lead"]),
        "dpo_lead": mean(lambda seed: seed["baselines"]["dpo"]["dpa_lead"]),
        "angles": params.angles,
        "table": tables,
        "seeds": seeds,
    }


if __name__ == "__main__":
    run_stage(main)
