"""The params of everything that learns by PPO: the stage ppo, and each that brings a reward and a token mask of its own."""

from __future__ import annotations

from pydantic import Field

from tasks.runtime.params import StageParams


class PPOParams(StageParams):
    """How a policy is optimised by PPO."""

    seed: int = Field(0, ge=0)
    """Seed of sampling, order and adapters."""
    threads: int = Field(1, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it, so it is fixed rather than taken from the machine."""
    iterations: int = Field(6, ge=1, le=1000)
    """Times the policy samples and learns."""
    prompts: int = Field(128, ge=1)
    """Prompts of one iteration, drawn without repetition; all of them if there are fewer."""
    samples: int = Field(1, ge=1, le=256)
    """Answers drawn for each prompt."""
    temperature: float = Field(1.0, gt=0, le=5)
    """Temperature of the policy: of its samples and of its log-probabilities alike."""
    max_new_tokens: int = Field(40, ge=1)
    """Longest answer, in tokens."""
    learning_rate: float = Field(3e-4, gt=0, lt=1)
    """Constant learning rate of the actor (AdamW, no decay)."""
    critic_learning_rate: float = Field(1e-3, gt=0, lt=1)
    """Constant learning rate of the critic."""
    epochs: int = Field(2, ge=1, le=100)
    """Passes over the answers of an iteration."""
    batch_size: int = Field(32, ge=1)
    """Answers of one optimizer step, over all processes."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Norm to which the gradient of actor and critic together is clipped."""
    clip: float = Field(0.2, gt=0, lt=1)
    """How far a ratio of probabilities may move from 1 and still gain."""
    value_clip: float = Field(1.0, gt=0)
    """How far a value may move in an iteration and still gain, in units of the reward."""
    value_weight: float = Field(0.1, gt=0)
    """Weight of the critic's loss: its share in the norm that is clipped."""
    entropy_weight: float = Field(0.0, ge=0)
    """Bonus for entropy, in loss per nat."""
    discount: float = Field(1.0, gt=0, le=1)
    """Discount of a reward per token of delay."""
    trace: float = Field(0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation: 0 trusts the critic, 1 the rewards."""
    whiten: bool = Field(True)
    """Whether advantages are scaled to mean 0 and variance 1 over an iteration. A scoring rule is learned better without."""
    kl_weight: float = Field(0.05, ge=0)
    """Reward that one nat of log pi - log pi_ref costs, at first."""
    kl_target: float | None = Field(None, gt=0)
    """KL of an answer, in nats, toward which the weight is adapted; null keeps the weight fixed."""
    kl_gain: float = Field(0.1, gt=0, le=5)
    """How fast: a KL that is 20 % or more off changes the weight by a fifth of this after an iteration."""
    kl_limit: float = Field(100.0, gt=0)
    """KL of an answer, in nats, at which the run is ended as failed."""
    hold_weight: float = Field(0.0, ge=0)
    """Loss that one nat of KL from the reference costs on the actions that a token mask leaves out. The mask keeps the gradient
    of the reward off those tokens, but not off the weights behind them; at 0 they move along."""
    missing_eos_penalty: float = Field(0.0, ge=0)
    """Taken from the reward of an answer that was cut at `max_new_tokens`."""
    lora_rank: int = Field(0, ge=0)
    """Rank of LoRA adapters on all linear layers; 0 trains every weight. What is published is merged either way."""
    generate_batch: int = Field(256, ge=1)
    """Answers sampled or scored at once: memory against speed. Changes a number only by rounding, but bits all the same."""
    micro_batch: int = Field(32, ge=1)
    """Answers of one pass through actor and critic in one process: memory against speed, as `generate_batch`."""
