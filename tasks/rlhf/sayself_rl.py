"""Stage 2 of SaySelf: rewards a stated confidence for being the chance of being right (Xu et al. 2024, stage 2).

It is PPO with a reward of text alone, and a policy that learns from the tokens after `Confidence:` only. Advantages keep their
scale: dividing by each group's deviation turns the proper rule into one that pays for certainty alone.

A proper rule pays ignorance in full: who answers nothing right and states 0 earns all there is. The mask keeps the gradient off
the answer's tokens, not off the weights they share, so two things guard the answers: they are held near stage 1 by a KL term,
and the iteration that is kept is the best of those that answer as well as stage 1 does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.rlhf.ppo_loop import Task, optimise
from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.reward import Answer, Reward
from tasks.rlhf.rollout import Rollout, TokenMask
from tasks.rlhf.sayself_choice import Checked, check, choose
from tasks.runtime.confidence import (
    CONFIDENCE,
    SCALE,
    Question,
    RewardKind,
    is_correct,
    parse_confidence,
    parse_response,
    reward,
)
from tasks.runtime.launch import Place, here, launch_stage
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.records import read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tasks.rlhf.learner import Learner


class Params(PPOParams):
    """Params of PPO on stated confidences."""

    section: ClassVar[str] = "sayself-rl"
    reward: RewardKind = "quadratic"
    """`quadratic`, the proper rule, or `linear`, the control."""
    learning_rate: float = Field(3e-5, gt=0, lt=1)
    """Constant learning rate of the actor. Small, for all weights move and the answers with them: at 3e-4 one trial unlearned
    every answer (accuracy 0.19 -> 0.01) and stated 0 throughout, which a proper rule pays in full."""
    trace: float = Field(1.0, ge=0, le=1)
    """Lambda of generalised advantage estimation; at 1 a confidence is judged by what it earned, not by the critic."""
    whiten: bool = Field(False)
    """Whether advantages are scaled over an iteration, by one scale for all: never by group."""
    kl_weight: float = Field(0.01, ge=0)
    """Reward that one nat of log pi - log pi_ref costs. One step away from the best confidence costs 0.02: keep it low."""
    hold_weight: float = Field(1.0, ge=0)
    """Loss that one nat of KL from stage 1 costs on the tokens before the confidence."""
    estimator: Literal["sampled", "expected"] = "sampled"
    """`sampled` is PPO on the confidence that was drawn; `expected` the exact gradient over all eleven, for the answer that was
    drawn, where each is one token."""
    choose: Literal["best", "last"] = "best"
    """Which iteration is published: the best of those that still answer, or the last, as of a control that shows where its
    reward leads."""
    slack: float = Field(0.02, ge=0, le=1)
    """Accuracy on the validation questions that an iteration may lose against stage 1 and still be kept."""


def main(params: Params, run: Run, *, policy: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Optimise the stage-1 model in `policy` on `sets`/rl.jsonl; publish the best iteration by `sets`/valid.jsonl.

    That is stage 1 itself where no iteration is better, or none has kept its accuracy.
    """
    place = here()
    questions = {question.prompt: question for question in read_records(sets / "rl.jsonl", Question)}
    held_out = {question.prompt: question for question in read_records(sets / "valid.jsonl", Question)}
    learner = make_learner(params, place, policy, questions)
    earned = confidence_reward(questions, params.reward)
    task = Task(params, run, place, list(questions), earned, confidence_mask(learner.tokenizer))
    course = optimise(learner, task)
    if place.first:
        models = [policy, *(task.models.place(number) / "model" for number in range(1, len(course) + 1))]
        judged = confidence_reward(held_out, params.reward)
        checked = [check(model, number, list(held_out.values()), judged, params) for number, model in enumerate(models)]
        publish_best(models, checked, course, params, out, scores, curve)
        run.checkpoints.clear()


def make_learner(params: Params, place: Place, policy: Path, questions: Mapping[str, Question]) -> Learner:
    """Return the learner of the estimator. Raises UserError for the exact one when a confidence is more than one token."""
    from tasks.rlhf.learner import Learner

    if params.estimator == "sampled":
        return Learner(params, place, policy)
    from tasks.rlhf.sayself_expected import ExpectedLearner, Worth
    from tasks.runtime.models import load_tokenizer

    tokenizer = load_tokenizer(policy)
    encoded = [tokenizer(str(level), add_special_tokens=False)["input_ids"] for level in range(SCALE + 1)]
    if any(len(ids) != 1 or ids == [tokenizer.unk_token_id] for ids in encoded):
        raise UserError(f"{policy}: writes a confidence with more than one token; set sayself-rl.estimator: sampled")
    levels, mask = [token for (token,) in encoded], confidence_mask(tokenizer)

    def worth(rollout: Rollout) -> Worth | None:
        said, first = parse_response(rollout.completion), mask(rollout).index(True)
        if said.confidence is None or rollout.actions[first] != levels[said.confidence]:
            return None
        right = [is_correct(said.answer, gold) for gold in questions[rollout.prompt].answers]
        rewards = [fmean(reward(each, level, params.reward) for each in right) for level in range(SCALE + 1)]
        return Worth(first, rewards)

    return ExpectedLearner(params, place, policy, levels, worth)


def publish_best(
    models: Sequence[Path],
    checked: Sequence[Checked],
    course: Sequence[Mapping[str, float]],
    params: Params,
    out: Path,
    scores: Path,
    curve: Path,
) -> None:
    """Publish the model that is kept, what was found of every one, and the course; row K is the policy after K iterations."""
    best = choose(checked, params.slack) if params.choose == "best" else checked[-1]
    with publish(out) as draft:
        shutil.copytree(models[best.iteration], draft)
    rows = [{**asdict(one), **row} for one, row in zip(checked, [*[_before(row) for row in course], {}], strict=True)]
    publish_curve(curve, rows)
    told = {"start": checked[0], "best": best, "last": checked[-1]}
    publish_json(scores, {"chosen": best.iteration, **{name: asdict(one) for name, one in told.items()}})


def _before(row: Mapping[str, float]) -> dict[str, float]:
    """Return what an iteration tells of the policy that it began with: all but its number."""
    return {name: value for name, value in row.items() if name != "iteration"}


def confidence_reward(questions: Mapping[str, Question], kind: RewardKind) -> Reward:
    """Return the reward of (prompt, response) pairs: that of the stated confidence, the mean over the question's right answers.

    For a question without a fixed answer these are draws, so the mean is what its rows in the data would earn on average.
    """

    def score(answers: Sequence[Answer]) -> list[float]:
        return [one(questions[prompt], text) for prompt, text in answers]

    def one(question: Question, text: str) -> float:
        said = parse_response(text)
        return fmean(reward(is_correct(said.answer, gold), said.confidence, kind) for gold in question.answers)

    return score


def confidence_mask(tokenizer: PreTrainedTokenizerBase) -> TokenMask:
    """Return the mask of the actions after the last `Confidence:`; of a response that cannot be read, all are learned from."""

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    def mask(rollout: Rollout) -> list[bool]:
        if parse_confidence(rollout.completion) is None:
            return [True] * len(rollout.actions)
        first = first_after(rollout.actions, decode)
        return [number >= first for number in range(len(rollout.actions))]

    return mask


def first_after(actions: list[int], decode: Callable[[list[int]], str]) -> int:
    """Return the number of the first action after those that spell the last `Confidence:`."""
    wanted = len(CONFIDENCE.findall(decode(actions)))
    return next(end for end in range(len(actions) + 1) if len(CONFIDENCE.findall(decode(actions[:end]))) == wanted)


if __name__ == "__main__":
    launch_stage(main)
