"""Task files in lm-eval's format for the kinds of tasks that the alignment tax is measured by, with their data in local files.

Each includes lm-eval's own file, so prompts, metrics and post-processing are lm-eval's; only the rows come from here, in the
columns of the original data sets. SQuAD's own class fetches its metric from the hub, so its file takes DROP's F1 instead.
"""

import importlib.util
import json
from pathlib import Path

CHOICES = ["the red ball", "a small dog", "the big tree", "her mom"]
ROWS = {
    "arc_easy": lambda n: {
        "question": f"What did Tom see on day {n}?",
        "choices": {"text": CHOICES, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[n % 4],
    },
    "race": lambda n: {
        "article": "Lily went to the park. She saw a dog and a tree.",
        "problems": str(
            [{"question": f"{said} did Lily see?", "options": CHOICES, "answer": "BCDA"[n % 4]} for said in ("What", "Who")]
        ),
    },
    "piqa": lambda n: {
        "goal": "To make a cake",
        "sol1": "mix the eggs and milk.",
        "sol2": f"throw {n} eggs at a tree.",
        "label": n % 2,
    },
    "squad": lambda n: {
        "context": f"Tom has {n + 2} red balls. He likes to play in the park.",
        "question": "What does Tom have?",
        "answers": {"text": [f"{n + 2} red balls", "balls"]},
    },
    "drop": lambda n: {
        "query_id": str(n),
        "passage": f"Sue had {n + 3} cookies and ate 2.",
        "question": "How many cookies were left?",
        "answer": {"number": str(n + 1), "date": {"day": "", "month": "", "year": ""}, "spans": []},
        "validated_answers": {"number": [], "date": [], "spans": []},
    },
    "wmt14": lambda n: {"translation": {"fr": f"Le chien a {n + 2} amis.", "en": f"The dog has {n + 2} friends."}},
}
OWN = {
    "arc_easy": ("arc/arc_easy.yaml", "test"),
    "race": ("race/race.yaml", "test"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "drop": ("drop/default.yaml", "validation"),
    "wmt14": ("translation/wmt14_fr-en.yaml", "test"),
}
"""lm-eval's own file of a kind, and the split that it measures."""
SQUAD = """
task: local_squad
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {data}}}}}
output_type: generate_until
validation_split: validation
doc_to_text: "Background: {{{{context}}}}\\n\\nQuestion: {{{{question}}}}\\n\\nAnswer:"
doc_to_target: "{{{{answers.text[0]}}}}"
process_results: !function squad.process_results
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24}}
metric_list:
  - {{metric: f1, aggregation: mean, higher_is_better: true}}
"""
PROCESS = """
from lm_eval.tasks.drop.utils import get_metrics


def process_results(doc, results):
    return {"f1": max(get_metrics(results[0], answer)[1] for answer in doc["answers"]["text"])}
"""
TASKS = [f"local_{kind}" for kind in ROWS]
ABILITIES = {
    "common_sense": {"local_arc_easy": "acc", "local_race": "acc", "local_piqa": "acc"},
    "reading": {"local_squad": "f1", "local_drop": "f1"},
    "translation": {"local_wmt14": "bleu"},
}


def write_tasks(folder: Path, rows: int = 4) -> Path:
    """Write a task file of every kind to `folder`, with `rows` rows each, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(importlib.util.find_spec("lm_eval").submodule_search_locations[0]) / "tasks"
    for kind, row in ROWS.items():
        data = folder / f"{kind}.jsonl"
        data.write_text("".join(json.dumps(row(number)) + "\n" for number in range(rows)))
        (folder / f"{kind}.yaml").write_text(SQUAD.format(data=data) if kind == "squad" else including(own, kind, data))
    (folder / "squad.py").write_text(PROCESS)
    return folder


def including(own: Path, kind: str, data: Path) -> str:
    """Return a task file that is lm-eval's own but for its name and its data."""
    file, split = OWN[kind]
    short = (
        "generation_kwargs: {until: ['.', \"\\n\"], max_gen_toks: 24, do_sample: false}\n" if kind in ("drop", "wmt14") else ""
    )
    return (
        f"include: {own / file}\ntask: local_{kind}\ntag: local_tasks\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{{split}: {data}}}}}\ntraining_split: null\nfewshot_split: null\n"
        + ("validation_split: null\n" if split == "test" else "")
        + short
    )
