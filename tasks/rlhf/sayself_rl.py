"""Stage 2 of SaySelf: rewards a stated confidence for being the chance of being right (Xu et al. 2024, stage 2).

It is PPO with a reward of text alone, and a policy that learns from the tokens after `Confidence:` only. Advantages keep their
scale: dividing by each group's deviation turns the proper rule into one that pays for certainty alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tasks.rlhf.ppo_loop import Task, optimise, publish_course
from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.reward import Answer, Reward
from tasks.rlhf.rollout import Rollout, TokenMask
from tasks.runtime.confidence import CONFIDENCE, Question, RewardKind, is_correct, parse_confidence, parse_response, reward
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.records import read_records
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def main(params: Params, run: Run, *, policy: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Optimise the stage-1 model in `policy` on `sets`/rl.jsonl; publish `out`/iteration-K for every iteration K from 1."""
    from tasks.rlhf.learner import Learner

    place = here()
    questions = {question.prompt: question for question in read_records(sets / "rl.jsonl", Question)}
    learner = Learner(params, place, policy)
    earned = confidence_reward(questions, params.reward)
    task = Task(params, run, place, list(questions), earned, confidence_mask(learner.tokenizer))
    publish_course(task, optimise(learner, task), out, scores, curve)


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
