"""Group relative policy optimisation: the policy learns from its own answers, each judged against others to the same prompt.

The advantage of an answer is (r - mean r) / std r over the answers to its prompt (Shao et al. 2024, section 4.1.2), beta weighs
the KL divergence from the start in the loss. Answers are learned from once, so the clipped ratio is always 1.
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
    """Training by GRPO."""

    section: ClassVar[str] = "grpo"
    beta: float = Field(0.05, ge=0)
    """Weight of the KL divergence from the policy before RLHF."""


def main(params: Params, run: Run, *, policy: In, reward: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Tune `policy` under `reward`; publish `out`/iteration-K for every snapshot K from 1."""
    places = {"policy": policy, "reward": reward, "sets": sets, "out": out, "scores": scores, "curve": curve}
    train(params, run, grpo_trainer, "A policy tuned on its own answers (GRPO).", **places)


def grpo_trainer(policy: Path, reward: Any, plan: Plan, prompts: Dataset, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Return TRL's trainer with our sampler and any penalty of ours."""
    from trl import GRPOConfig, GRPOTrainer

    class SamplingGRPOTrainer(Penalised, Sampled, GRPOTrainer):
        """TRL's trainer with our sampler."""

        def _generate_single_turn(self, prompt_ids: Any, *_: Any) -> Any:
            return self.draw(prompt_ids), None

    return SamplingGRPOTrainer(
        start_model(policy, plan),
        reward_funcs=reward,
        args=settings(GRPOConfig, plan),
        train_dataset=prompts,
        processing_class=tokenizer,
    )


if __name__ == "__main__":
    launch_stage(main)
