"""REINFORCE leave-one-out: the policy learns from its own answers, each judged against the mean of the others to its prompt.

The advantage of an answer is r - mean of the other r (Ahmadian et al. 2024, equation 8), where r is the reward less beta times
the answer's KL divergence from the start. Answers are learned from once, so the clipped ratio is always 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.rlhf.online import OnlineParams, Sampled, settings, start_model, train
from tasks.rlhf.penalised import Penalised
from tasks.runtime.fit.plan import Plan
from tasks.runtime.launch import launch_stage
from tasks.runtime.stage import In, Out, Run

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, Trainer


class Params(OnlineParams):
    """Training by RLOO."""

    section: ClassVar[str] = "rloo"
    beta: float = Field(0.05, ge=0)
    """Weight of the KL divergence from the policy before RLHF."""


def main(params: Params, run: Run, *, policy: In, reward: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Tune `policy` under `reward`; publish `out`/iteration-K for every snapshot K from 1."""
    places = {"policy": policy, "reward": reward, "sets": sets, "out": out, "scores": scores, "curve": curve}
    train(params, run, rloo_trainer, "A policy tuned on its own answers (RLOO).", **places)


def rloo_trainer(policy: Path, reward: Any, plan: Plan, prompts: Dataset, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return TRL's trainer with our sampler and any penalty of ours."""
    from trl import RLOOConfig, RLOOTrainer

    class SamplingRLOOTrainer(Penalised, Sampled, RLOOTrainer):
        """TRL's trainer with our sampler."""

        def _generate_single_turn(self, prompt_ids: Any, *_: Any) -> Any:
            return self.draw(prompt_ids)

    return SamplingRLOOTrainer(
        start_model(policy, plan),
        reward_funcs=reward,
        args=settings(RLOOConfig, plan),
        train_dataset=prompts,
        processing_class=tokenizer,
    )


if __name__ == "__main__":
    launch_stage(main)
