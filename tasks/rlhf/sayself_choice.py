"""Which iteration of stage 2 is kept: the one that earns most on the validation questions, among those that still answer.

The reward alone would choose the collapse: a policy that has unlearned every answer and states 0 earns all that a proper rule
pays. By the quadratic reward the choice is that of the Brier score, R = 1 - 2 Brier, and what cannot be read counts as the worst.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.reward import Reward
from tasks.runtime.confidence import Question, is_correct, parse_response


@dataclass(frozen=True)
class Checked:
    """What an iteration says to the validation questions, each asked once, the likeliest token taken."""

    iteration: int
    """0 is the model of stage 1."""
    valid_reward: float
    valid_accuracy: float
    valid_confidence: float
    """Mean stated confidence, of what could be read; 0 where nothing could."""
    valid_parse_rate: float


def check(model: Path, iteration: int, questions: Sequence[Question], reward: Reward, params: PPOParams) -> Checked:
    """Return what the model in a folder says to the questions; `reward` is that of stage 2 on these questions."""
    from tasks.runtime.generate import generate
    from tasks.runtime.models import load_causal, on_device

    policy, tokenizer = load_causal(model)
    prompts = [question.prompt for question in questions]
    length, batch = params.max_new_tokens, params.generate_batch
    texts = generate(on_device(policy), tokenizer, prompts, max_new_tokens=length, temperature=0, seed=0, batch_size=batch)
    return checked(iteration, questions, [text for (text,) in texts], reward)


def checked(iteration: int, questions: Sequence[Question], texts: Sequence[str], reward: Reward) -> Checked:
    """Return what responses are worth, one to each question."""
    said = [parse_response(text) for text in texts]
    right = [fmean(is_correct(one.answer, gold) for gold in q.answers) for q, one in zip(questions, said, strict=True)]
    levels = [one.confidence for one in said if one.confidence is not None]
    rewards = reward([(question.prompt, text) for question, text in zip(questions, texts, strict=True)])
    return Checked(iteration, fmean(rewards), fmean(right), fmean(levels) if levels else 0.0, len(levels) / len(said))


def choose(checked: Sequence[Checked], slack: float) -> Checked:
    """Return the one with the highest reward whose accuracy is at most `slack` below that of the first, which is stage 1."""
    kept = [one for one in checked if one.valid_accuracy >= checked[0].valid_accuracy - slack]
    return max(kept, key=lambda one: one.valid_reward)
