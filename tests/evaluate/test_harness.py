"""The harness stage: task files of lm-eval's form, the same metrics as lm-eval's own model class, and taxes worked by hand."""

import importlib.util
import json
import random

import pytest

from tasks.evaluate.harness import (
    ABILITIES,
    Params,
    find_tasks,
    load_task,
    main,
    metrics_of,
    require_harness,
    summary,
)
from tasks.evaluate.models import below
from tasks.runtime.lease import Lease
from tasks.runtime.models import load_causal
from tasks.runtime.params import UserError
from tasks.runtime.stage import Run
from tests.evaluate.local_tasks import ABILITIES as LOCAL
from tests.evaluate.local_tasks import TASKS, write_tasks
from tests.tiny import WORDS, llama, save, word_tokenizer

has_harness = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not has_harness, reason="lm-eval is not installed: pip install 'temper[lm-eval]'")

CHOICE = """
task: toy_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
WRITE = """
task: toy_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: [" w7", " w8", " w9"], max_gen_toks: 24, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: chrf, aggregation: chrf, higher_is_better: true}}
"""
TEXTS = """
task: toy_texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
"""


def words(draw, count):
    return " ".join(draw.choices(WORDS, k=count))


@pytest.fixture
def definitions(tmp_path, monkeypatch):
    """A folder with three task files and their data; everything lm-eval's libraries keep goes below the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, draw = tmp_path / "definitions", random.Random(0)
    folder.mkdir()
    with (folder / "data.jsonl").open("w") as file:
        for number in range(12):
            choices = [words(draw, 1 + other % 3) for other in range(4)]
            row = {"question": words(draw, 6), "choices": choices, "answer": number % 4, "text": words(draw, 20 + 10 * number)}
            file.write(json.dumps(row) + "\n")
    for name, text in {"choice": CHOICE, "write": WRITE, "texts": TEXTS}.items():
        (folder / f"{name}.yaml").write_text(text.format(data=folder / "data.jsonl"))
    return folder


TOYS = ["toy_choice", "toy_write", "toy_texts"]


def theirs(folder, manager, **options):
    """What lm-eval finds with its own model class."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = load_causal(folder)
    own = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    asked = {"tasks": TOYS, "task_manager": manager, "bootstrap_iters": 0, "log_samples": False}
    return metrics_of(simple_evaluate(own, **(asked | options))["results"])


def start(tmp_path):
    return Run("harness", "toy", Lease(tmp_path / "lease", "harness"))


@needs_harness
def test_the_stage_finds_what_lm_eval_finds(tmp_path, definitions, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["pre", "after/iteration-1"]
    places = {name: save(llama(seed), tmp_path / name) for seed, name in enumerate(names)}
    writing = {"toy_write": "chrf", "never_measured": "acc"}
    abilities = {"choosing": {"toy_choice": "acc"}, "writing": writing, "none": {"drop": "f1"}}
    params = Params(tasks=TOYS, abilities=abilities, num_fewshot=1, limit=10, batch_size=3)
    out = tmp_path / "scores.json"
    main(params, start(tmp_path), models=tmp_path / "after", pre=places["pre"], definitions=definitions, scores=out)
    found = json.loads(out.read_text())
    assert list(found["models"]) == ["before", "iteration-1"]
    manager = find_tasks(params, definitions)
    for name, place in zip(found["models"], places.values(), strict=True):
        expected = theirs(place, manager, limit=10, num_fewshot=1, fewshot_random_seed=0)
        assert found["models"][name] == {task: pytest.approx(row, rel=1e-4) for task, row in expected.items()}
    first = found["models"]["iteration-1"]
    assert set(first["toy_choice"]) == {"acc", "acc_norm"}
    choosing, writing = first["toy_choice"]["acc"], first["toy_write"]["chrf"] / 100
    assert found["abilities"]["iteration-1"] == {"choosing": choosing, "writing": writing}
    assert found["models"]["before"] != first
    assert not (tmp_path / ".temper/checkpoints/harness/toy").exists()


@needs_harness
@pytest.mark.real
def test_every_kind_of_task_of_the_paper_is_measured_as_lm_eval_does(real_data, tmp_path, monkeypatch):
    """ARC, RACE, PIQA, SQuAD, DROP and WMT14 in local files, on a real model: choices scored, texts drawn, three abilities."""
    import datasets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    model, folder = real_data / "models/stories260k", write_tasks(tmp_path / "tasks")
    params = Params(tasks=TASKS, abilities=LOCAL, batch_size=4)
    main(params, start(tmp_path), models=model, pre=model, definitions=folder, scores=tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    expected = theirs(model, find_tasks(params, folder), tasks=TASKS)
    assert found["models"]["before"] == {task: pytest.approx(row, rel=1e-4) for task, row in expected.items()}
    assert set(found["abilities"]["model"]) == {"common_sense", "reading", "translation"}
    assert found["tax"] == {"model": {"common_sense": 0, "reading": 0, "translation": 0}}, "it is the model before"


@needs_harness
def test_texts_end_where_a_stop_text_begins():
    """One by one and together, drawn in pieces or at once: the same texts, and none is longer than it may be."""
    from lm_eval.api.instance import Instance

    from tasks.evaluate.adapter import Adapter

    draw, options = random.Random(1), {"until": [" w3", " w4 "], "max_gen_toks": 40}
    requests = [Instance("generate_until", {}, (words(draw, 3 + number), options), number) for number in range(9)]
    requests.append(Instance("generate_until", {}, (words(draw, 90), {"until": [], "max_gen_toks": 5}), 9))
    made = Adapter(llama(), word_tokenizer(), batch_size=4, seed=0)
    together = made.generate_until(requests)
    assert together == [made.generate_until([request])[0] for request in requests]
    assert not any(" w3" in text or " w4 " in text for text in together[:9])
    assert len(together[9].split()) <= 5


@needs_harness
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 3, "num_beams": 2}, "asks for num_beams, top_k"),
        ({"max_gen_toks": 64}, "texts of 64 tokens and the model's context"),
    ],
)
def test_texts_that_cannot_be_drawn_are_refused(options, said):
    from lm_eval.api.instance import Instance

    from tasks.evaluate.adapter import Adapter

    made = Adapter(llama(), word_tokenizer(), batch_size=4, seed=0)
    with pytest.raises(UserError, match=said):
        made.generate_until([Instance("generate_until", {}, ("w1", options), 0)])


def test_taxes_are_worked_by_hand():
    """Percent become shares; the mean is over the tasks that were measured; the tax is what the model before had more of."""

    def metrics(arc, piqa, squad, drop, bleu):
        choices = {"arc_easy": {"acc": arc}, "piqa": {"acc": piqa}}
        return choices | {"squadv2": {"f1": squad}, "drop": {"f1": drop}, "wmt14-fr-en": {"bleu": bleu}}

    before, after = metrics(0.8, 0.6, 40.0, 0.2, 30.0), metrics(0.9, 0.6, 20.0, 0.1, 24.0)
    found = summary({"before": before, "ppo": after}, ABILITIES)
    assert found["abilities"]["before"] == pytest.approx({"common_sense": 0.7, "reading": 0.3, "translation": 0.3})
    assert found["tax"] == {"ppo": pytest.approx({"common_sense": -0.05, "reading": 0.15, "translation": 0.06})}


def test_errors_and_what_is_no_number_are_left_out():
    row = {"alias": "toy", "acc,none": 1, "acc_stderr,none": 0.1, "em,strict": 0.5, "f1,none": float("nan"), "x,none": "N/A"}
    assert metrics_of({"toy": row}) == {"toy": {"acc": 1.0, "em,strict": 0.5}}


def test_without_lm_eval_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'temper\[lm-eval\]'"):
        require_harness()


@needs_harness
def test_a_metric_that_a_task_does_not_have_is_named(definitions):
    params = Params(tasks=["toy_choice"], abilities={"choosing": {"toy_choice": "f1"}})
    with pytest.raises(UserError, match=r"harness\.abilities\.choosing\.toy_choice: no metric 'f1'; it has acc, acc_norm"):
        find_tasks(params, definitions)


@needs_harness
def test_missing_data_is_named(definitions):
    (definitions / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"harness\.tasks: toy_choice: its data cannot be had .* mend data_files"):
        find_tasks(Params(tasks=["toy_choice"]), definitions)


@needs_harness
def test_without_a_hub_its_tasks_fail_at_once(definitions, monkeypatch):
    import datasets
    import httpx
    from huggingface_hub import constants
    from lm_eval.tasks import TaskManager

    from tasks.evaluate.harness import go_offline_without_hub

    def unreachable(*args, **options):
        raise httpx.ConnectError("no route")

    for place in (constants, datasets.config):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(httpx, "head", unreachable)
    monkeypatch.setattr(httpx.Client, "send", lambda *args, **options: pytest.fail("asked the hub again"))
    task = CHOICE.format(data="x").replace("path: json", "path: nobody/nothing").replace("toy_choice", "toy_hub")
    (definitions / "hub.yaml").write_text(task)
    go_offline_without_hub()
    with pytest.raises(UserError, match=r"toy_hub: its data cannot be had .*HF_HOME"):
        load_task(TaskManager(include_path=str(definitions), include_defaults=False), "toy_hub", definitions)


@needs_harness
@pytest.mark.slow  # reads all of lm-eval's own task files
def test_an_unknown_task_is_named(definitions):
    with pytest.raises(UserError, match=r"harness\.tasks: toy_choise: neither a task of lm-eval nor one of a YAML file below"):
        find_tasks(Params(tasks=["toy_choice", "toy_choise"]), definitions)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no model folder"):
        below(tmp_path)
