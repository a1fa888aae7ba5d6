"""Every stage that trains or fills a file for hours, on tiny inputs: its module, params and flags."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.data import block as blocks
from tasks.runtime.confidence import Question, add_words, write_response
from tasks.runtime.models import encode_completion, encode_prompt, save_model
from tasks.runtime.records import write_records
from tests import speaker, theorems
from tests.chaos import forked
from tests.tiny import SHAPE, WORDS, judge, llama, save, word_tokenizer
from tests.train import stages

FIT = {"max_length": 32, "batch_size": 4, "threads": 1, "learning_rate": 0.01}
ANSWERS = {"samples": 4, "max_new_tokens": 6, "generate_batch": 16}
PPO = {"iterations": 3, "prompts": 8, "max_new_tokens": 8, "threads": 1}
POLICY = {"policy": "base", "reward": "reward", "sets": "sets"}
FITTED = ("pretrain", "sft", "reward", "dpo", "grpo", "rloo", "prover", "student", "rtuning", "sayself-sft")
DISTILL = {"base": "base", "teacher": "teacher", "sets": "distill"}


@dataclass(frozen=True)
class Trainer:
    """One stage: how it is started, and where it can die."""

    module: str
    section: str
    params: dict
    flags: dict[str, str]
    outs: tuple[str, ...] = ("out", "scores", "curve")
    point: str = "step"
    """The failure point that counts its progress."""

    @property
    def fits(self) -> bool:
        """Whether the Trainer fits it, which says its steps."""
        return self.section in FITTED

    def arguments(self, world: Path, place: Path) -> list[str]:
        """The command line with inputs below `world` and outs below `place`/out, its params written into `place`."""
        place.mkdir(parents=True, exist_ok=True)
        (place / "params.yaml").write_text(json.dumps({self.section: self.params}))
        names = {"out": "model", "scores": "scores.json", "curve": "curve.csv"}
        flags = {"params": place / "params.yaml", **{name: world / where for name, where in self.flags.items()}}
        flags |= {name: place / "out" / names[name] for name in self.outs}
        return [word for name, where in flags.items() for word in (f"--{name}", str(where))]


TRAINERS = {
    "pretrain": Trainer(
        "tasks.train.pretrain", "pretrain", {**FIT, **stages.SMALL["pretrain"], "epochs": 0.5}, stages.INPUTS["pretrain"]
    ),
    "sft": Trainer("tasks.train.sft", "sft", {**FIT, "heldout": 4, "epochs": 1}, stages.INPUTS["sft"]),
    "reward": Trainer("tasks.train.reward", "reward", {**FIT, "epochs": 1}, stages.INPUTS["reward"]),
    "raft": Trainer(
        "tasks.rlhf.raft",
        "raft",
        {**ANSWERS, "iterations": 3, "prompts": 8, "batch_size": 4, "seeds": [0, 1], "threads": 1, "learning_rate": 0.01},
        POLICY,
    ),
    "dpo": Trainer(
        "tasks.rlhf.dpo", "dpo", {**FIT, "snapshots": 3, "epochs": 0.5}, {"policy": "base", "preferences": "preferences"}
    ),
    "grpo": Trainer("tasks.rlhf.grpo", "grpo", {**FIT, **ANSWERS, "snapshots": 3, "epochs": 1.0}, POLICY),
    "rloo": Trainer("tasks.rlhf.rloo", "rloo", {**FIT, **ANSWERS, "snapshots": 3, "epochs": 1.0}, POLICY),
    "ppo": Trainer("tasks.rlhf.ppo", "ppo", {**PPO, "samples": 2, "batch_size": 8, "micro_batch": 8}, POLICY),
    "prover": Trainer(
        "tasks.train.block", "prover", {**FIT, "max_length": 260, "epochs": 1.0}, {"base": "prover-base", "blocks": "blocks"}
    ),
    "teacher": Trainer(
        "tasks.distill.teacher_topk",
        "teacher-topk",
        {"max_length": 24, "batch_size": 4, "threads": 1},
        {"teacher": "teacher", "student": "base", "sets": "distill"},
        ("out", "scores"),
        "topk",
    ),
    "student": Trainer(
        "tasks.distill.student",
        "student",
        {**FIT, "max_length": 24, "epochs": 0.1},
        {**DISTILL, "topk": "teacher-done/out/model", "recalibration": "recalibrated/out/scores.json"},
    ),
    "rtuning": Trainer(
        "tasks.train.rtuning", "rtuning", {**FIT, "max_length": 48, "epochs": 2}, {"base": "speaker", "data": "refusal"}
    ),
    "sayself-sft": Trainer(
        "tasks.train.sayself_sft",
        "sayself-sft",
        {**FIT, "max_length": 64, "batch_size": 1, "epochs": 3},
        {"base": "base", "sets": "confidence"},
    ),
    "sayself-rl": Trainer(
        "tasks.rlhf.sayself_rl",
        "sayself-rl",
        {**PPO, "samples": 8, "batch_size": 32, "epochs": 1, "learning_rate": 0.002},
        {"policy": "confident", "sets": "confidence"},
    ),
}
RECALIBRATE = Trainer(
    "tasks.distill.recalibrate",
    "recalibrate",
    {"max_length": 24},
    {"topk": "teacher-done/out/model", "student": "base", "sets": "distill"},
    ("scores",),
)


def write_world(place: Path) -> Path:
    """Everything that all of them read, below `place`."""
    torch.manual_seed(0)
    stages.write_world(place)
    save(judge(1), place / "reward")
    save(llama(1), place / "teacher")
    write_records(place / "sets/prompts.jsonl", [{"prompt": f"{a} {b}"} for a in WORDS[:6] for b in WORDS[:4]])
    _distill(place)
    _theorems(place)
    _refusal(place)
    _confidence(place)
    return place


def _distill(place: Path) -> None:
    """Pairs for the teacher; and what it and the choice of c make of them."""
    write_distill(place / "distill")
    for trainer, where in ((TRAINERS["teacher"], "teacher-done"), (RECALIBRATE, "recalibrated")):
        forked.finish(trainer.module, trainer.arguments(place, place / where), place / where)


def write_distill(place: Path) -> None:
    """Pairs for training and validation, as many as fill some blocks of a top-k file."""
    draw = random.Random(0)
    for name, count in (("sft", 700), ("valid", 12)):
        pairs = [(draw.choices(WORDS, k=draw.randint(2, 6)), draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(count)]
        write_records(place / f"{name}.jsonl", [{"prompt": " ".join(p), "completion": " ".join(c)} for p, c in pairs])


def write_records_of_sft(place: Path) -> None:
    """Sixty prompts with their answers."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(4, 20))) for _ in range(120)]
    write_records(place, [{"prompt": a, "completion": b} for a, b in zip(texts[:60], texts[60:], strict=True)])


def _theorems(place: Path) -> None:
    words = theorems.tokenizer()
    shape = LlamaConfig(vocab_size=len(words), **SHAPE, max_position_embeddings=512, pad_token_id=0, eos_token_id=2)
    save_model(LlamaForCausalLM(shape), words, place / "prover-base", {"stage": "toy", "summary": "A tiny random Llama."})
    write_records(place / "records.jsonl", theorems.world(18))
    places = {"records": place / "records.jsonl", "tokenizer": place / "prover-base", "out": place / "blocks"}
    blocks.main(blocks.Params(max_length=260), None, **places, scores=place / "blocks.json")


def _refusal(place: Path) -> None:
    save(speaker.speaker(), place / "speaker")
    speaker.tokenizer().save_pretrained(place / "speaker")
    rows = [
        {"prompt": f"w{n} w{20 + n % 2}", "answer": f"w{n + 5}.", "verdict": "sure." if n % 2 else "unsure.", "qid": str(n)}
        for n in range(16)
    ]
    write_records(place / "refusal/padding/train.jsonl", rows)


def _confidence(place: Path) -> None:
    """Rows of stage 1; and for stage 2 questions, and a policy that answers `w1` to all with a random confidence."""
    rows = []
    for n, level in enumerate([10, 0, 7, 3, 5, 9]):
        said = write_response(WORDS[n], f"torn between {WORDS[n]} and {WORDS[n + 1]}", level)
        turns = [{"role": "user", "content": f"w{n} w20"}, {"role": "assistant", "content": said}]
        rows.append({"messages": turns, "c": level})
    write_records(place / "confidence/sft.jsonl", rows)
    prompts = [f"w{n} w30" for n in range(8)]
    asked = [Question(qid=p, prompt=p, answers=["w1" if n < 4 else "w2"], source="s", group=p) for n, p in enumerate(prompts)]
    for name in ("rl", "valid"):
        write_records(place / f"confidence/{name}.jsonl", asked)
    model, tokenizer = llama(), word_tokenizer()
    add_words(model, tokenizer, ["answer", ":", "confidence", *map(str, range(11))])
    answers = [(prompt, f"answer: w1 confidence: {level}") for prompt in prompts for level in range(11)]
    ids_BT = torch.tensor([encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, answer) for prompt, answer in answers])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
    save_model(model, tokenizer, place / "confident", {"stage": "toy", "summary": "A tiny policy with a confidence."})
