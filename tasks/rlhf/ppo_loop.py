"""PPO as a loop that any stage can run: rollouts, a reward, an optional token mask, and a model folder for every iteration.

An iteration is a function of the learner's state, the seed and its number alone. State and model are sealed when it ends, so a
run killed anywhere goes on with the same bits.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tasks.rlhf.ppo_params import PPOParams
from tasks.rlhf.reward import Reward, check_varied
from tasks.rlhf.rollout import Played, TokenMask, masks, play, scored
from tasks.runtime.chaos import reach
from tasks.runtime.checkpoint import Checkpoints
from tasks.runtime.launch import Place, check_place
from tasks.runtime.models import derive, set_determinism
from tasks.runtime.params import UserError
from tasks.runtime.publish import publish, publish_curve, publish_json
from tasks.runtime.stage import Run

if TYPE_CHECKING:
    from tasks.rlhf.learner import Experience, Learner

CHOICE, SAMPLING, ORDER = 1, 2, 3
"""Which random stream of an iteration a seed is for."""


@dataclass(frozen=True)
class Task:
    """What all iterations share."""

    params: PPOParams
    run: Run
    place: Place
    prompts: Sequence[str]
    reward: Reward
    mask: TokenMask | None = None
    """Which actions the policy learns from; all of them without one."""

    @property
    def models(self) -> Checkpoints:
        """The iterations that are done: `model` and `scores.json` of each."""
        return Checkpoints(self.run.checkpoints.folder / self.place.name / "models")

    @property
    def states(self) -> Checkpoints:
        """The newest states of the learner, after an iteration."""
        return Checkpoints(self.run.checkpoints.folder / self.place.name / "states")

    def done(self) -> int:
        """Return the last iteration from which the run can go on: its state is whole, and so are all models until there."""
        models = set(self.models.steps())
        return max((step for step in self.states.steps() if models.issuperset(range(1, step + 1))), default=0)


def optimise(learner: Learner, task: Task) -> list[dict[str, float]]:
    """Do the iterations that are still to do; return the scores of all. Every process must call it."""
    check_place(task.run.checkpoints.folder, task.place)
    if done := task.done():
        learner.load(task.states.place(done))
    for number in range(done + 1, task.params.iterations + 1):
        scores = iterate(learner, task, number)
        reach("step")
        seal(learner, task, number, scores)
    places = [task.models.place(number) for number in range(1, task.params.iterations + 1)]
    return [json.loads((place / "scores.json").read_text(encoding="utf-8")) for place in places]


def iterate(learner: Learner, task: Task, number: int) -> dict[str, float]:
    """Let the policy play and learn once; return what is told of it, as it was before it learned."""
    params = task.params
    set_determinism(derive(params.seed, number), task.place.threads(params.threads))
    played = plays(learner, task, number)
    kl = fmean(sum(one.logprobs) - sum(one.reference) for one in played)
    if not kl < params.kl_limit:
        raise UserError(
            f"iteration {number}: the policy has moved {kl:.3g} nats an answer from its reference, past "
            f"{params.section}.kl_limit: {params.kl_limit:g}; lower {params.section}.learning_rate, or raise kl_weight"
        )
    if number == 1:  # later a policy may have found the best answer to every prompt
        check_varied([one.score for one in played], "iteration 1")
    lesson, explained = learn_from(learner, task, played)
    scores = {
        "iteration": number,
        "reward": fmean(one.score for one in played),
        "kl": kl,
        "kl_weight": learner.kl.weight,
        "length": fmean(len(one.rollout.actions) for one in played),
        "stopped": fmean(one.rollout.stopped for one in played),
        "explained_variance": explained,
    }
    scores |= learner.update(lesson, order(len(played), params, random.Random(derive(params.seed, number, ORDER))))
    learner.kl = learner.kl.after(kl)
    return scores


def plays(learner: Learner, task: Task, number: int) -> list[Played]:
    """Return the answers of iteration `number`, those of all processes, in the order of their prompts."""
    params, place = task.params, task.place
    choice = random.Random(derive(params.seed, number, CHOICE))
    prompts = choice.sample(task.prompts, min(params.prompts, len(task.prompts)))
    mine = range(place.rank, len(prompts), place.processes)
    progress = task.run.progress(len(mine) * params.samples, "answers", f"iteration {number}") if place.first else None
    seed = derive(params.seed, number, SAMPLING)
    rollouts = play(learner.actor, learner.tokenizer, [prompts[index] for index in mine], mine, params, seed, progress)
    scores = scored(rollouts, task.reward, params.missing_eos_penalty)
    numbers = [index for index in mine for _ in range(params.samples)]
    known = zip(numbers, rollouts, scores, learner.foresee(rollouts), strict=True)
    played = [Played(index, rollout, score, *foreseen) for index, rollout, score, foreseen in known]
    return sorted(learner.gather(played), key=lambda one: one.number)


def learn_from(learner: Learner, task: Task, played: Sequence[Played]) -> tuple[Experience, float]:
    """Return the answers with their advantages, and how much of the returns' variance the critic foresaw."""
    import torch

    from tasks.rlhf.advantage import explained_variance, gae, token_rewards, whiten
    from tasks.rlhf.critic import padded
    from tasks.rlhf.learner import Experience

    params = task.params
    rollouts = [one.rollout for one in played]
    real_NA = padded([[True] * len(rollout.actions) for rollout in rollouts])
    mask_NA = padded(masks(rollouts, task.mask))
    logprobs_NA, values_NA = padded([one.logprobs for one in played]), padded([one.values for one in played])
    reference_NA = padded([one.reference for one in played])
    gap_NA = logprobs_NA - reference_NA
    rewards_NA = token_rewards(torch.tensor([one.score for one in played]), gap_NA, real_NA, learner.kl.weight)
    advantages_NA, targets_NA = gae(rewards_NA, values_NA, real_NA, params.discount, params.trace)
    if params.whiten:
        advantages_NA = whiten(advantages_NA, mask_NA)
    lesson = Experience(rollouts, real_NA, mask_NA, logprobs_NA, values_NA, advantages_NA, targets_NA, reference_NA)
    return lesson, explained_variance(values_NA, targets_NA, real_NA)


def order(count: int, params: PPOParams, draw: random.Random) -> list[int]:
    """Return the answers in the order they are learned from, in whole batches: a shuffle an epoch, the last cut or begun."""
    total = max(1, round(count * params.epochs / params.batch_size)) * params.batch_size
    shuffles = (draw.sample(range(count), count) for _ in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(shuffles), total))


def seal(learner: Learner, task: Task, number: int, scores: Mapping[str, float]) -> None:
    """Make an iteration count: first its model, then the state from which the next one starts."""
    if task.place.first:
        summary = f"The policy after iteration {number} of PPO."
        with task.models.save(number) as draft:
            learner.publish(draft / "model", {"stage": task.run.stage, "summary": summary, **task.params.model_dump()})
            (draft / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    draft = task.states.folder / f"draft-{number:08d}"
    if task.place.first:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    learner.gather([number])  # the folder is there
    learner.save(draft)
    learner.gather([number])  # everyone has written
    if task.place.first:
        task.states.seal(draft, number)
        task.states.prune(1)
    learner.gather([number])


def publish_course(task: Task, course: Sequence[Mapping[str, float]], out: Path, scores: Path, curve: Path, **more: Any) -> None:
    """Publish `out`/iteration-K of every iteration, the curve, and the scores with `more` beside them; drop the checkpoints."""
    if not task.place.first:
        return
    with publish(out) as draft:
        for number in range(1, len(course) + 1):
            shutil.copytree(task.models.place(number) / "model", draft / f"iteration-{number}")
    publish_curve(curve, course)
    last = {f"last_{name}": value for name, value in course[-1].items() if name != "iteration"}
    publish_json(scores, {"first_reward": course[0]["reward"], **last, **more})
    task.run.checkpoints.clear()
