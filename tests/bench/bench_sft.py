"""Speed of `sft` against TRL's own packing: tokens that are not padding a second, same model, same records, same optimizer.

    python tests/bench/bench_sft.py [--rounds 3]

Each contender trains one epoch on the same records with about the same tokens a step; the rounds alternate, and the best counts.
`off by` is how far its loss before training, over all learned tokens, is from that of every record by itself: packing that lets
records see each other, or learns across their borders, shows there. The ratio is to TRL's best that is right to 1e-5.
"""

import argparse
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback, logging
from trl import SFTConfig, SFTTrainer

from tasks.data.tokenizer import word_tokenizer
from tasks.runtime.fit.attendant import fit
from tasks.runtime.fit.plan import Plan
from tasks.runtime.launch import Place
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal, set_determinism
from tasks.runtime.packing import IGNORED, Example, pack
from tasks.runtime.records import Completion, Text, read_records
from tasks.runtime.stage import Run
from tasks.train import pretrain, sft
from tasks.train.llama import new_llama

THREADS = 2


@dataclass
class Case:
    """A model with records to tune it on."""

    name: str
    model: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    examples: list[Example]
    max_length: int
    rows: int
    """Rows of `max_length` in a step."""

    @property
    def tokens(self) -> int:
        """Tokens of an epoch, padding left out."""
        return sum(len(ids) for ids, _ in self.examples)


def atlas() -> Case:
    """A Llama of 1.4M parameters with one token a word, and questions of 8 to 40 words answered in 1 to 25."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(700)]
    tokenizer = word_tokenizer(words, 512)
    say = lambda least, most: " ".join(draw.choices(words, k=draw.randint(least, most)))  # noqa: E731
    records = [Completion(prompt=say(8, 40), completion=say(1, 25)) for _ in range(900)]
    params = sft.Params(max_length=128)

    def model() -> PreTrainedModel:
        torch.manual_seed(0)
        return new_llama(pretrain.Params(), tokenizer)

    return Case(
        "Llama 1.4M, made-up words", model, tokenizer, sft.encode(tokenizer, records, params, "made up").examples, 128, 16
    )


def stories(data: Path) -> Case:
    """The real stories260k with the openings of real stories as prompts."""
    folder = data / "models/stories260k"
    _, tokenizer = load_causal(folder)
    records = []
    for text in read_records(data / "data/text/tinystories_1000.jsonl", Text)[:400]:
        words = text.text.split()
        records.append(Completion(prompt=" ".join(words[:12]), completion=" ".join(words[12:72])))
    params = sft.Params(max_length=512)
    examples = sft.encode(tokenizer, records, params, "stories").examples
    return Case("stories260k, TinyStories", lambda: load_causal(folder)[0].float(), tokenizer, examples, 512, 8)


class Stopwatch(TrainerCallback):
    """Times a run from its first step to its end."""

    seconds = 0.0

    def on_train_begin(self, *args: object, **more: object) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, *args: object, **more: object) -> None:
        self.seconds = time.perf_counter() - self.started


def ours(case: Case, folder: Path) -> tuple[Trainer, Callable[[], object]]:
    """The stage's own trainer, with its checkpoints, curve and progress."""
    rows = pack(case.examples, case.max_length)
    params = sft.Params(max_length=case.max_length, batch_size=case.rows, threads=THREADS)
    plan = Plan(Run("sft", "bench", Lease(folder, "bench")), params, Place(), [len(row["input_ids"]) for row in rows])
    trainer = sft.packed_trainer(case.model, case.tokenizer, rows, plan)
    return trainer, lambda: fit(trainer, plan)


def theirs(case: Case, folder: Path, rows: int, passes: int, **packing: object) -> tuple[Trainer, Callable[[], object]]:
    """TRL's SFTTrainer on the same token ids: `rows` a pass, `passes` a step; everything that only costs is turned off."""
    settings = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=passes,
        learning_rate=1e-3,
        optim="adamw_torch_fused",
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_steps=10_000,
        **{"max_length": case.max_length, **packing},
    )
    data = Dataset.from_list([{"input_ids": list(ids), "labels": list(labels)} for ids, labels in case.examples])
    trainer = SFTTrainer(case.model(), settings, train_dataset=data, processing_class=case.tokenizer)
    return trainer, trainer.train


def contenders(case: Case) -> dict[str, Callable[[Path], tuple[Trainer, Callable[[], object]]]]:
    """Ours, and TRL packed by its three strategies, free of padding, and plainly padded, in the passes that may suit it best."""
    each = len(case.examples) * case.max_length * case.rows // max(1, case.tokens)
    alone = max(1, each // case.max_length)  # records in as many tokens as a packed step has

    def trl(rows: int, passes: int, **packing: object) -> Callable[[Path], tuple[Trainer, Callable[[], object]]]:
        return lambda folder: theirs(case, folder, rows, passes, **packing)

    few = case.rows // 4
    return {
        "temper sft": lambda folder: ours(case, folder),
        f"trl bfd, {case.rows} rows a pass": trl(case.rows, 1, packing=True, packing_strategy="bfd"),
        f"trl bfd, {few} rows a pass": trl(few, 4, packing=True, packing_strategy="bfd"),
        "trl bfd, 1 row a pass": trl(1, case.rows, packing=True, packing_strategy="bfd"),
        f"trl wrapped, {case.rows} rows a pass": trl(case.rows, 1, packing=True, packing_strategy="wrapped"),
        f"trl padding-free, {alone} records a pass": trl(alone, 1, padding_free=True, max_length=None),
        f"trl padded, {alone} records a pass": trl(alone, 1),
    }


def loss_alone(case: Case) -> float:
    """Mean loss over all learned tokens, each record by itself."""
    model, losses, count = case.model().eval(), [], 0
    with torch.no_grad():
        for ids, labels in case.examples:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum").item())
            count += sum(label != IGNORED for label in labels[1:])
    return math.fsum(losses) / count


def loss_before(trainer: Trainer) -> float:
    """Mean loss over all learned tokens of an epoch, as the trainer computes it on its own batches before any step."""
    losses, count = [], 0
    trainer.model.eval()
    with torch.no_grad():
        for batch in trainer.get_train_dataloader():
            learned = (batch["labels"][:, 1:] != IGNORED).sum()
            losses.append(trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=learned).item() * learned.item())
            count += learned.item()
    return math.fsum(losses) / count


def compare(case: Case, rounds: int) -> None:
    """Run every contender `rounds` times, in turn, and print the table of a case."""
    print(f"\n{case.name}: {len(case.examples)} records, {case.tokens:,} tokens, rows of {case.max_length}, {case.rows} a step")
    exact, best, off = loss_alone(case), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, make in contenders(case).items():
                set_determinism(0, THREADS)
                trainer, train = make(Path(folder) / name)
                if name not in off:
                    off[name] = abs(loss_before(trainer) - exact)
                watch = Stopwatch()
                trainer.add_callback(watch)
                train()
                best[name] = min(best.get(name, math.inf), watch.seconds)
    rates = {name: case.tokens / seconds for name, seconds in best.items()}
    right = {name: rate for name, rate in rates.items() if name.startswith("trl") and off[name] <= 1e-5}
    rival = max(right, key=lambda name: right[name])
    for name, rate in rates.items():
        print(f"  {name:38} {rate:10,.0f} tokens/s   off by {off[name]:.1e}   {rate / right[rival]:5.2f}")
    print(f"  ratio to {rival}: {rates['temper sft'] / right[rival]:.2f} (at least 1.0 is wanted)")


def main() -> None:
    """Compare on a made-up and, where it is found, a real model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    compare(atlas(), rounds)
    data = Path(os.environ.get("TEMPER_REAL_DATA", "../shared"))
    if (data / "models/stories260k").is_dir():
        compare(stories(data), rounds)
    else:
        print(f"\nno real data at {data}; set TEMPER_REAL_DATA")


if __name__ == "__main__":
    main()
