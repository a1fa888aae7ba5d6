"""Speed of `dpo` and `grpo` against a plain script of TRL's trainers: samples a second, same model, data and sizes.

    python tests/bench/bench_rlhf.py [--steps 4] [--rounds 2]

A random Llama of 1.4 million parameters; a sample is a pair (DPO) or a sampled answer (GRPO). Processor time of the best round on
one thread, since the cores may be shared, the rounds alternating; loading is not counted. The plain scripts leave TRL its
`model.generate` and its own encoding.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from transformers import Trainer
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer

from tasks.rlhf import dpo, grpo
from tasks.rlhf.online import as_reward
from tasks.runtime.fit.attendant import fit
from tasks.runtime.fit.plan import Plan
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.models import encode_prompt, load_causal, save_model
from tasks.runtime.records import write_records
from tasks.runtime.stage import Run
from tests.bench.bench_generate import WORDS, make

PAIRS, PROMPTS, SAMPLES, TOKENS = 16, 8, 8, 40
PLAIN = {"learning_rate": 1e-4, "max_grad_norm": 1.0, "logging_steps": 1, "report_to": [], "use_cpu": True, "bf16": False}
PLAIN |= {"disable_tqdm": True, "save_strategy": "no", "gradient_checkpointing": False}  # ours computes nothing twice either


def words(prompts: list[str], completions: list[str], **_: object) -> list[float]:
    """A reward that costs nothing: how many different words an answer has."""
    return [float(len(set(text.split()))) for text in completions]


def plan_of(module, place: Path, lengths: list[int], **params) -> Plan:
    """A plan of a stage that never saves."""
    values = module.Params(max_length=128, threads=1, learning_rate=1e-4, **params)
    run = Run("bench", f"{time.monotonic_ns()}", Lease(place, "bench"))
    return Plan(run, values, Place(checkpoint_seconds=1e9), lengths, answers=params.get("samples", 1))


def our_dpo(place: Path, rows: list[dict[str, str]], steps: int):
    """The trainer of the stage `dpo`, and how it is run."""
    _, tokenizer = load_causal(place / "model")
    write_records(place / "pairs.jsonl", rows)
    pairs = dpo.encode(tokenizer, place / "pairs.jsonl", dpo.Params(max_length=128))
    plan = plan_of(dpo, place, [1] * len(pairs.rows), batch_size=PAIRS)
    trainer = dpo.dpo_trainer(place / "model", tokenizer, pairs, plan)
    return lambda: fit(trainer, plan)


def plain_dpo(place: Path, rows: list[dict[str, str]], steps: int):
    """TRL's own script."""
    model, tokenizer = load_causal(place / "model")
    settings = DPOConfig(str(place / "plain"), per_device_train_batch_size=PAIRS, max_steps=steps, **PLAIN)
    trainer: Trainer = DPOTrainer(model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return trainer.train


def our_grpo(place: Path, rows: list[dict[str, str]], steps: int):
    """The trainer of the stage `grpo`, and how it is run."""
    _, tokenizer = load_causal(place / "model")
    prompts = [row["prompt"] for row in rows][: PROMPTS * steps]
    lengths = [len(encode_prompt(tokenizer, prompt)) for prompt in prompts]
    plan = plan_of(grpo, place, lengths, batch_size=PROMPTS, samples=SAMPLES, max_new_tokens=TOKENS, beta=0.05)
    judge = as_reward(lambda answers: words([], [text for _, text in answers]))
    ordered = Dataset.from_list([{"prompt": prompts[row]} for row in plan.order])
    trainer = grpo.grpo_trainer(place / "model", judge, plan, ordered, tokenizer)
    trainer.plan = plan
    return lambda: fit(trainer, plan)


def plain_grpo(place: Path, rows: list[dict[str, str]], steps: int):
    """TRL's own script."""
    model, tokenizer = load_causal(place / "model")
    sizes = {"per_device_train_batch_size": PROMPTS * SAMPLES, "num_generations": SAMPLES, "max_completion_length": TOKENS}
    settings = GRPOConfig(str(place / "plain"), max_steps=steps, beta=0.05, **sizes, **PLAIN)
    prompts = Dataset.from_list([{"prompt": row["prompt"]} for row in rows])
    trainer: Trainer = GRPOTrainer(model, words, settings, train_dataset=prompts, processing_class=tokenizer)
    return trainer.train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("steps", 4), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    draw = random.Random(0)
    say = lambda least, most: " ".join(draw.choices(WORDS, k=draw.randint(least, most)))  # noqa: E731
    rows = [{"prompt": say(6, 12), "chosen": say(10, 40), "rejected": say(10, 40)} for _ in range(PAIRS * given.steps)]
    contests = {"DPO": (plain_dpo, our_dpo, PAIRS), "GRPO": (plain_grpo, our_grpo, PROMPTS * SAMPLES)}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_model(*make(), place / "model", {"stage": "bench", "summary": "A random Llama."})
        for name, (plain, ours, size) in contests.items():
            seconds = {plain: [], ours: []}
            for _ in range(given.rounds):
                for contender, times in seconds.items():
                    work = contender(place, rows, given.steps)
                    started = time.process_time()
                    work()
                    times.append(time.process_time() - started)
            rates = {contender: size * given.steps / min(times) for contender, times in seconds.items()}
            print(f"{name}: TRL {rates[plain]:.1f}, ours {rates[ours]:.1f} samples/s, ratio {rates[ours] / rates[plain]:.2f}")


if __name__ == "__main__":
    main()
