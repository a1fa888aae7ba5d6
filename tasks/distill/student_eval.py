"""How well models' confidence fits the noisy facts, whose right confidence is known, before and after temperature scaling.

The chance that a prediction is right is read from the distribution of its context instead of being sampled, so accuracy and ECE
carry no noise of a test set. The temperature is chosen by the likelihood of the validation answers (Guo et al. 2017). All models
of a seed are measured in one process: loading the libraries takes longer than measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from tasks.distill.rows import VALIDATION
from tasks.distill.trustworthy import Array, ece, reliability
from tasks.runtime.models import check_folder, encode_completion, encode_prompt, load_causal, on_device, set_determinism
from tasks.runtime.params import StageParams, UserError
from tasks.runtime.publish import publish_curve, publish_json
from tasks.runtime.records import Completion, Record, read_records
from tasks.runtime.stage import In, Out, Run, run_stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEMPERATURES = [round(0.05 * n, 2) for n in range(10, 81)]


class Params(StageParams):
    """The measuring of students."""

    section: ClassVar[str] = "student-eval"
    threads: int = Field(2, ge=1, le=64)
    """CPU threads: the order of fp32 sums depends on it."""


class Context(Record):
    """A question whose answers have a known distribution."""

    prompt: str = Field(min_length=1)
    answers: list[str] = Field(min_length=2)
    probabilities: list[float] = Field(min_length=2)


def main(params: Params, run: Run, *, base: In, teacher: In, students: In, corpus: In, sets: In, scores: Out, curve: Out) -> None:
    """Measure the student's `base`, its `teacher` and every model in `students` on `corpus`/noisy.jsonl.

    The temperature of each is chosen on `sets`/valid.jsonl.
    """
    set_determinism(0, params.threads)
    contexts = read_records(corpus / "noisy.jsonl", Context)
    valid = read_records(sets / f"{VALIDATION}.jsonl", Completion)
    models = {"base": base, "teacher": teacher, **{place.name: place for place in sorted(students.iterdir())}}
    found, rows = {}, []
    for name, folder in models.items():
        found[name], binned = judge(folder, contexts, valid)
        rows += [{"model": name, **row} for row in binned]
    publish_json(scores, {"models": found})
    publish_curve(curve, rows)


def judge(
    folder: Path, contexts: Sequence[Context], valid: Sequence[Completion]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the scores of the model in `folder`, and its reliability as it is (`scaled` 0) and at its temperature (1)."""
    check_folder(folder)
    model, tokenizer = load_causal(folder)
    model = on_device(model.float()).eval()
    logits_NV = next_logits(model, tokenizer, [context.prompt for context in contexts])
    truth_NV = truth(tokenizer, contexts, logits_NV.shape[1])
    tau = choose_temperature(model, tokenizer, valid)
    scaled = {f"scaled_{name}": value for name, value in measure(logits_NV / tau, truth_NV).items()}
    rows: list[dict[str, float]] = []
    for number, sharpened_NV in enumerate((logits_NV, logits_NV / tau)):
        rows += [{"scaled": number, **row} for row in reliability(*first_choices(softmax(sharpened_NV), truth_NV))]
    return {**measure(logits_NV, truth_NV), "temperature": tau, **scaled}, rows


def choose_temperature(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, valid: Sequence[Completion]) -> float:
    """Return the temperature under which the first tokens of the validation answers are likeliest."""
    prompts = sorted({record.prompt for record in valid})
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    logits_NV = next_logits(model, tokenizer, prompts)
    rows = [row_of[record.prompt] for record in valid]
    targets = [first_token(tokenizer, record.completion) for record in valid]

    def loss(tau: float) -> float:
        return -float(np.log(softmax(logits_NV / tau)[rows, targets].clip(1e-12)).mean())

    return min(TEMPERATURES, key=loss)


def measure(logits_NV: Array, truth_NV: Array) -> dict[str, float]:
    """Return accuracy, ECE, Brier score and negative log-likelihood expected under the truth, and what the best would have."""
    probs_NV = softmax(logits_NV)
    confidence_N, right_N = first_choices(probs_NV, truth_NV)
    error = ece(confidence_N, right_N)
    return {
        "accuracy": float(right_N.mean()),
        "bayes_accuracy": float(truth_NV.max(-1).mean()),
        "confidence": float(confidence_N.mean()),
        "ece": error,
        "acc_minus_ece": float(right_N.mean()) - error,
        "confidence_error": float(np.abs(confidence_N - right_N).mean()),
        "brier": float((right_N * (1 - confidence_N) ** 2 + (1 - right_N) * confidence_N**2).mean()),
        "nll": float(-(truth_NV * np.log(probs_NV.clip(1e-12))).sum(-1).mean()),
    }


def first_choices(probs_NV: Array, truth_NV: Array) -> tuple[Array, Array]:
    """Return the confidence of each likeliest token, and the known chance that it is right: the confidence it should have."""
    rows, first = np.arange(len(probs_NV)), probs_NV.argmax(-1)
    return probs_NV[rows, first], truth_NV[rows, first]


def truth(tokenizer: PreTrainedTokenizerBase, contexts: Sequence[Context], vocabulary: int) -> Array:
    """Return the known probability of every token after each prompt, [N, V]."""
    truth_NV = np.zeros((len(contexts), vocabulary))
    for row, context in zip(truth_NV, contexts, strict=True):
        ids = [first_token(tokenizer, answer) for answer in context.answers]
        if len(set(ids)) < len(ids):
            raise UserError(f"{context.prompt!r}: two answers begin with the same token; use a tokenizer that parts them")
        row[ids] = context.probabilities
    return truth_NV


def first_token(tokenizer: PreTrainedTokenizerBase, answer: str) -> int:
    """Return the first token of an answer as it follows its prompt."""
    return int(encode_completion(tokenizer, answer)[0])


def next_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Array:
    """Return the logits of the token after each prompt, [N, V]; prompts of one length share a pass, so nothing is padded."""
    import torch

    alike: dict[int, list[tuple[int, list[int]]]] = {}
    for number, ids in enumerate(encode_prompt(tokenizer, prompt) for prompt in prompts):
        alike.setdefault(len(ids), []).append((number, ids))
    found: dict[int, torch.Tensor] = {}
    with torch.inference_mode():
        for group in alike.values():
            numbers, rows = zip(*group, strict=True)
            logits_BV = model(torch.tensor(rows, device=model.device), use_cache=False, logits_to_keep=1).logits[:, -1]
            found |= zip(numbers, logits_BV.double().cpu(), strict=True)
    return np.stack([found[number].numpy() for number in range(len(prompts))])


def softmax(logits_NV: Array) -> Array:
    """Return probabilities [N, V]."""
    powers = np.exp(logits_NV - logits_NV.max(-1, keepdims=True))
    probs: Array = powers / powers.sum(-1, keepdims=True)
    return probs


if __name__ == "__main__":
    run_stage(main)
