"""What a prover is asked, and what counts as its answer: never shown the theorem itself, as many proofs as wanted, no more."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.prove.sampling import Prover, SamplingParams, batches
from tasks.runtime.models import save_model
from tasks.runtime.params import UserError
from tasks.runtime.theorem_prompt import Layout, Renderer, save_layout
from tests.theorems import chain, sum_of, tokenizer, world
from tests.tiny import SHAPE


class Params(SamplingParams):
    """Params of no stage."""

    section = "toy"


POOL = world()
SMALL = {"threads": 1, "max_new_tokens": 12, "context": 400}


@pytest.fixture(scope="module")
def renderer():
    return Renderer(tokenizer(), Layout())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random prover."""
    place, words = tmp_path_factory.mktemp("prover"), tokenizer()
    torch.manual_seed(0)
    shape = LlamaConfig(vocab_size=len(words), **SHAPE, max_position_embeddings=512, pad_token_id=0, eos_token_id=2)
    shape.initializer_range = 0.3
    save_model(LlamaForCausalLM(shape), words, place, {"stage": "toy", "summary": "A random prover."})
    save_layout(Layout(), place)
    return place


def asked(renderer, theorem, pool=POOL, round_=1, **params):
    (question,) = renderer.questions([theorem])
    return batches(theorem, question, pool, renderer.encode(pool), renderer, Params(**{**SMALL, **params}), round_)


@pytest.mark.parametrize(("samples", "batch", "counts"), [(30, 4, [4] * 7 + [2]), (32, 4, [4] * 8), (3, 8, [3])])
def test_as_many_proofs_as_wanted_and_not_fewer(renderer, samples, batch, counts):
    assert [one.count for one in asked(renderer, chain(40), samples=samples, batch=batch)] == counts


def test_the_theorem_itself_is_never_shown(renderer):
    """Half of the pool are the theorem under its own name and under another; over many batches neither is ever drawn."""
    twin = chain(1).model_copy(update={"Name": "other", "Statement": chain(1).Statement.replace("chain_1 ", "other ")})
    pool = [chain(1), twin, chain(1, 3).model_copy(update={"Statement": "theorem chain_1 : True :="}), *POOL[2:5]]
    pool[1] = twin.model_copy(update={"Proof": twin.Statement + " by exact h", "Commented_proof": twin.Statement + " by exact h"})
    pool[2] = pool[2].model_copy(update={"Proof": "theorem chain_1 : True := trivial", "Commented_proof": None})
    for one in asked(renderer, chain(1), pool, samples=60, batch=1):
        assert set(one.examples) <= {record.Name for record in POOL[2:5]}
        assert renderer.tokenizer.decode(one.prompt).count("chain_1 ") == 1


def test_every_batch_has_examples_and_a_temperature_of_its_own(renderer):
    found = asked(renderer, chain(40), samples=40, batch=4, temperature_low=0.5, temperature_high=1.25)
    heat = [one.temperature for one in found]
    assert len(set(heat)) == 10
    assert 0.5 <= min(heat) < 0.75 < 1.0 < max(heat) <= 1.25
    assert len({tuple(one.examples) for one in found}) > 5
    assert found == asked(renderer, chain(40), samples=40, batch=4, temperature_low=0.5, temperature_high=1.25)
    assert found[0] != asked(renderer, chain(40), samples=4, batch=4, round_=2)[0]


def test_examples_leave_room_for_the_proof_and_go_from_easy_to_hard(renderer):
    difficulty = {record.Name: record.steps for record in POOL}
    for one in asked(renderer, chain(40), samples=20, batch=1):
        assert len(one.prompt) <= 400 - 12
        assert one.examples
        assert [difficulty[name] for name in one.examples] == sorted(difficulty[name] for name in one.examples)
    assert all(len(one.examples) == 1 for one in asked(renderer, chain(40), samples=4, batch=1, examples=1))


def test_a_theorem_that_leaves_no_room_is_refused(renderer):
    with pytest.raises(UserError, match=r"theorem chain_40: its prompt and 12 new tokens are \d+ more than toy.context: 64"):
        asked(renderer, chain(40), context=64)


def drawn(folder, numbers=(0, 1, 2), **params):
    prover = Prover(folder, Params(**{**SMALL, "samples": 6, "batch": 4, **params}))
    theorems = [(number, (chain(40), sum_of(41), chain(42, 3))[number]) for number in numbers]
    return dict(zip(numbers, prover.sample(theorems, POOL, prover.encode(POOL), 1), strict=True))


def test_a_proof_is_the_same_whatever_else_is_sampled(folder):
    together = drawn(folder)
    assert drawn(folder, generate_batch=1) == together
    assert drawn(folder, (1,))[1] == together[1]
    assert drawn(folder, (2, 0)) == {number: together[number] for number in (2, 0)}
    assert [len(of) for of in together.values()] == [6, 6, 6]
    assert len({one.proof for of in together.values() for one in of}) > 12


def test_an_answer_begins_at_the_first_generated_token_and_ends_before_the_end(folder):
    """A prover whose next token is always the same: its proof is that token over and over, nothing of the prompt; or nothing."""
    prover = Prover(folder, Params(**SMALL, samples=2))
    word = prover.tokenizer("rfl", add_special_tokens=False)["input_ids"][0]
    for token, said in ((word, prover.tokenizer.decode([word]) * 12), (prover.renderer.end, "")):
        with torch.no_grad():
            head = torch.nn.Linear(SHAPE["hidden_size"], len(prover.tokenizer))
            head.weight.zero_()
            head.bias.fill_(-50.0)[token] = 50.0
        prover.model.lm_head = head
        found = prover.sample([(0, chain(40))], POOL, prover.encode(POOL), 1)[0]
        assert [one.proof for one in found] == [said] * 2
        assert [one.whole for one in found] == [token == prover.renderer.end] * 2


def test_the_end_of_a_proof_may_be_a_token_of_the_layout(folder):
    prover = Prover(folder, Params(**SMALL, layout=Layout(end="<user>")))
    assert prover.model.generation_config.eos_token_id == sorted({2, prover.tokenizer.convert_tokens_to_ids("<user>")})


def test_a_model_from_elsewhere_needs_a_layout(folder, tmp_path):
    for path in folder.iterdir():
        if path.name != "theorem_prompt.json":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match="holds no theorem_prompt.json, as a prover of the stage prover does; set toy.layout"):
        Prover(tmp_path, Params(**SMALL))
    Prover(tmp_path, Params(**SMALL, layout=Layout()))


def test_temperatures_the_wrong_way_round_are_refused(folder):
    with pytest.raises(UserError, match=r"toy.temperature_low: 0.9 is above temperature_high: 0.6; swap them"):
        Prover(folder, Params(temperature_low=0.9, temperature_high=0.6))
