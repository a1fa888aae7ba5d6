"""Packing loses nothing, mixes nothing and changes no loss: a packed row computes what its examples compute alone."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.runtime.models import encode_completion, encode_prompt, load_causal
from tasks.runtime.packing import IGNORED, collate, pack, packed_loss, summed_loss
from tests.tiny import llama

LENGTHS = st.lists(st.integers(1, 16), min_size=1, max_size=60)


def examples_of(lengths: list[int], learned_from: int = 0) -> list[tuple[list[int], list[int]]]:
    """Examples of these lengths with tokens of their own; tokens before `learned_from` are not learned."""
    draw = torch.Generator().manual_seed(len(lengths))
    made = [torch.randint(4, 44, (length,), generator=draw).tolist() for length in lengths]
    return [(ids, [IGNORED] * learned_from + ids[learned_from:]) for ids in made]


def loss_alone(model, ids: list[int], labels: list[int]) -> tuple[float, int]:
    """The textbook loss of one example by itself: full logits, float64, one token at a time."""
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    losses = [-logprobs[at - 1, labels[at]].item() for at in range(1, len(ids)) if labels[at] != IGNORED]
    return math.fsum(losses), len(losses)


@given(LENGTHS)
def test_every_example_is_in_exactly_one_row_whole(lengths):
    examples = examples_of(lengths)
    found = []
    for row in pack(examples, 16):
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= 16
        starts = [at for at, position in enumerate(row["position_ids"]) if position == 0] + [len(row["input_ids"])]
        for start, end in itertools.pairwise(starts):
            assert row["position_ids"][start:end] == list(range(end - start)), "positions restart"
            assert row["labels"][start] == IGNORED, "the first token is not learned from its neighbour"
            found.append(row["input_ids"][start:end])
    assert sorted(found) == sorted(ids for ids, _ in examples)


@given(LENGTHS)
def test_no_two_rows_would_fit_into_one_but_the_last(lengths):
    """A row is only begun when no other takes the example, so any two rows are together fuller than one row."""
    filled = sorted(len(row["input_ids"]) for row in pack(examples_of(lengths), 16))
    assert len(filled) == 1 or filled[0] + filled[1] > 16


def test_the_fullest_row_that_still_takes_it_gets_the_next_example():
    """The last 3 fit both 18 and 14 + 13 of 30; taking the first row instead of the fullest would give 21 and 27."""
    rows = pack(examples_of([3, 14, 18, 13]), 30)
    assert [len(row["input_ids"]) for row in rows] == [18, 30]


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="example 1 has 17 tokens and a row takes 1 to 16"):
        pack(examples_of([3, 17]), 16)


def test_an_empty_example_is_refused():
    with pytest.raises(ValueError, match="example 0 has 0 tokens"):
        pack([([], [])], 16)


def test_rows_are_padded_to_the_longest_with_tokens_that_nothing_learns():
    batch = collate(pack(examples_of([5, 3]), 5), pad_id=0)
    assert {name: tuple(values.shape) for name, values in batch.items()} == dict.fromkeys(batch, (2, 5))
    assert batch["input_ids"][1, 3:].tolist() == [0, 0]
    assert batch["labels"][1, 3:].tolist() == [IGNORED, IGNORED]


@settings(max_examples=20, deadline=None)
@given(LENGTHS, st.integers(0, 3))
def test_packed_loss_is_the_loss_of_the_examples_alone(lengths, learned_from):
    model, examples = llama(), examples_of([length + 4 for length in lengths], learned_from)
    with torch.no_grad():
        packed = packed_loss(model, collate(pack(examples, 32), pad_id=0)).item()
    sums = [loss_alone(model, *example) for example in examples]
    alone = math.fsum(loss for loss, _ in sums) / sum(count for _, count in sums)
    assert packed == pytest.approx(alone, abs=1e-5)


def test_packed_gradient_is_the_gradient_of_the_examples_alone():
    examples = examples_of([9, 4, 12, 7, 7, 3])
    packed, alone = llama(), llama()
    summed_loss(packed, collate(pack(examples, 24), pad_id=0))[0].backward()
    for example in examples:
        summed_loss(alone, collate(pack([example], 24), pad_id=0))[0].backward()
    for (name, left), right in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_no_example_sees_its_neighbour():
    """Other tokens in the first example change nothing in the loss of the second, to the bit."""
    second = examples_of([10])[0]
    losses = []
    for token in (5, 23):
        first = ([token] * 12, [IGNORED] * 12)
        (row,) = pack([first, second], 24)
        losses.append(packed_loss(llama(), collate([row], pad_id=0)).item())
    assert losses[0] == losses[1]


def test_only_hidden_states_that_predict_a_learned_token_reach_the_output_layer():
    model, rows = llama(), pack(examples_of([12, 9, 8], learned_from=6), 32)
    seen = []
    hook = model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(tuple(output.shape)))
    packed_loss(model, collate(rows, pad_id=0))
    hook.remove()
    assert seen == [(6 + 3 + 2, 44)]


def test_a_batch_that_learns_nothing_costs_nothing():
    model = llama()
    loss = packed_loss(model, collate(pack([([5, 6, 7], [IGNORED] * 3)], 8), pad_id=0))
    loss.backward()
    assert loss.item() == 0.0
    assert all(weights.grad is None or not weights.grad.any() for weights in model.parameters())


@pytest.mark.real
def test_packed_loss_of_a_real_model_on_real_stories(real_data):
    from tasks.runtime.records import Text, read_records

    model, tokenizer = load_causal(real_data / "models/stories260k")
    examples = []
    for record in read_records(real_data / "data/text/tinystories_1000.jsonl", Text)[:12]:
        words = record.text.split(" ")
        prompt = encode_prompt(tokenizer, " ".join(words[:12]))
        answer = encode_completion(tokenizer, " ".join(words[12:40]))
        examples.append((prompt + answer, [IGNORED] * len(prompt) + answer))
    with torch.no_grad():
        packed = packed_loss(model, collate(pack(examples, 512), tokenizer.pad_token_id)).item()
    sums = [loss_alone(model, *example) for example in examples]
    assert packed == pytest.approx(math.fsum(s for s, _ in sums) / sum(n for _, n in sums), abs=1e-5)
