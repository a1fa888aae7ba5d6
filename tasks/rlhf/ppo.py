"""PPO: the policy learns from a reward on its own answers, near its reference (Schulman et al. 2017, Ouyang et al. 2022).

An iteration samples answers, scores them, tells every token how much better than foreseen it did, and moves the policy by small
clipped steps. The reward is a reward model's, less the KL from the policy before RLHF. Every iteration's model is kept.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tasks.rlhf.ppo_loop import Task, optimise, publish_course
from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.reward import MODEL, load
from tasks.runtime.launch import here, launch_stage
from tasks.runtime.records import Prompt, read_records
from tasks.runtime.stage import In, Out, Run


class Params(PPOParams):
    """Params of PPO under a reward model or a function."""

    section: ClassVar[str] = "ppo"
    reward: str = Field(MODEL)
    """`model` for the reward model's folder, else `package.module:function` of prompt and completion."""


def main(params: Params, run: Run, *, policy: In, reward: In, sets: In, out: Out, scores: Out, curve: Out) -> None:
    """Optimise `policy` under `reward` on the prompts of `sets`; publish `out`/iteration-K for every iteration K from 1."""
    from tasks.rlhf.learner import Learner

    place = here()
    prompts = [record.prompt for record in read_records(sets / "prompts.jsonl", Prompt)]
    learner = Learner(params, place, policy)
    task = Task(params, run, place, prompts, load(params.reward, reward, params.generate_batch))
    publish_course(task, optimise(learner, task), out, scores, curve)


if __name__ == "__main__":
    launch_stage(main)
