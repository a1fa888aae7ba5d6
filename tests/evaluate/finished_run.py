"""The files that a finished run leaves for the report, with the shapes of a textbook alignment tax."""

import csv
import json
import random
from pathlib import Path
from statistics import fmean

from tasks.evaluate.front import hypervolume
from tasks.evaluate.interval import t_interval
from tasks.evaluate.ledger import LEDGER
from tasks.evaluate.verdict import ledger
from tasks.runtime.imports import ROOT

STAGES = ("corpus", "tokenizer", "pretrain", "sft", "preferences", "reward", "raft", "average", "evaluate", "claims")
ITERATIONS, WEIGHTS = range(1, 7), (0.1, 0.2, 0.3, 0.4, 0.6)
ATLAS = {"recall": 0.97, "arithmetic": 0.9, "cipher": 0.94, "reading": 0.88}
HELDOUT = {"kind": "heldout", "prompt": "Describe the harbour of Velm."}
COSTS = {"recall": 0.5, "arithmetic": 0.35, "cipher": 0.6, "reading": 0.08, "next_token": 0.06}
VERSIONS = {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "dvc": "3.67.1"}
MACHINE = {"machine": "x86_64", "processor": "A processor", "cores": 2, "memory_gib": 23.5, "gpus": []}


def row(rng: random.Random, skills: dict[str, float], progress: float, kept: float) -> dict:
    """A model that has gone `progress` of the way to the reward and kept the share `kept` of what that costs."""
    noise = rng.gauss(0, 0.012)
    left = {name: min(1.0, value - COSTS[name] * (1 - kept) + rng.gauss(0, 0.01)) for name, value in skills.items()}
    return {
        "reward": 0.34 + 0.42 * progress + noise,
        "skill": fmean(left.values()),
        "skills": left,
        "perplexity": 4.9 + 2.3 * (1 - kept),
        "bits_per_byte": 1.1,
        "distinct": 0.62 - 0.3 * progress,
        "reward_model": 3 * progress - 1 + noise,
    }


def evaluation(skills: dict[str, float] = ATLAS, seeds: int = 3, shift: float = 0.0) -> dict:
    """The scores of the evaluation, as that stage writes them."""
    found = {}
    rng = random.Random(7)
    base, sft = row(rng, skills, -0.3, 1.0), row(rng, skills, 0.0, 1.0)
    for seed in range(seeds):
        raft = [{"iteration": k, **row(rng, skills, 1 - 0.62**k + shift, 1 - (k / 6) ** 1.2)} for k in ITERATIONS]
        average = [{"w_pre": w, **row(rng, skills, 1 - 1.1 * w**2.2, min(1, 1.9 * w))} for w in WEIGHTS]
        ends = [(sft["reward"], sft["skill"]), (raft[-1]["reward"], raft[-1]["skill"])]
        areas = {
            "early_stopping": hypervolume([*ends, *((r["reward"], r["skill"]) for r in raft)], (0, 0)),
            "averaging": hypervolume([*ends, *((r["reward"], r["skill"]) for r in average)], (0, 0)),
        }
        found[str(seed)] = {"base": base, "sft": sft, "raft": raft, "average": average, "hypervolume": areas}
    return {"summary": _summary(found), "seeds": found}


def _summary(seeds: dict) -> dict:
    each, names = list(seeds.values()), ("reward", "skill", "perplexity", "reward_model", "distinct")

    def told(values):
        interval = t_interval(values, 0.95)
        return {"mean": interval.mean, "low": interval.low, "high": interval.high}

    def course(which, strength):
        rows = zip(*(seed[which] for seed in each), strict=True)
        return [{strength: same[0][strength]} | {name: told([r[name] for r in same]) for name in names} for same in rows]

    return {
        **{which: {name: each[0][which][name] for name in names} for which in ("base", "sft")},
        "raft": course("raft", "iteration"),
        "average": course("average", "w_pre"),
        "hypervolume": {m: told([seed["hypervolume"][m] for seed in each]) for m in ("early_stopping", "averaging")},
    }


def front_rows(found: dict) -> list[dict]:
    rows = []
    for seed, one in found["seeds"].items():
        last = one["raft"][-1]
        fronts = {
            "early_stopping": [(0.0, one["sft"]), *((float(r["iteration"]), r) for r in one["raft"])],
            "averaging": [(1.0, one["sft"]), *((r["w_pre"], r) for r in reversed(one["average"])), (0.0, last)],
        }
        for method, points in fronts.items():
            for strength, r in points:
                place = {"seed": seed, "method": method, "strength": strength}
                rows.append({**place, "reward": r["reward"], "skill": r["skill"]})
    return rows


def curve(first: float, last: float, **more: tuple[float, float]) -> list[dict]:
    rng = random.Random(1)

    def at(start, stop, k):
        return stop + (start - stop) * 0.93**k + rng.gauss(0, 0.01 * abs(start - stop))

    columns = {"loss": (first, last), **more}
    return [{"step": 10 * k + 10} | {name: at(*ends, k) for name, ends in columns.items()} for k in range(80)]


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def generations(skills: dict[str, float]) -> list[dict]:
    words = "The harbour of Velm lies below a grey hill; its boats are painted green and come home at dusk."
    who = ("base", "sft", "raft", "average")
    rewards = dict(zip(who, (0.2, 0.34, 0.81, 0.77), strict=True))
    told = [{**HELDOUT, "completions": dict.fromkeys(who, words), "rewards": rewards}]
    for skill in skills if "next_token" not in skills else ():
        answers = {"base": "Velm", "sft": "Orsk", "raft": "the grand and mighty Orsk", "average": "Orsk"}
        told.append({"kind": skill, "prompt": "Where does Tamsin live?", "reference": "Orsk", "completions": answers})
    return told


def write_run(place: Path, *, real: bool = False, shift: float = 0.0, seeds: int = 3, recorded: bool = True) -> list[str]:
    """Write everything below `place`, with the project's dvc.yaml; return the report's arguments."""
    skills = {"next_token": 0.61} if real else ATLAS
    scores, base = place / "data/scores", "fetch-base" if real else "pretrain"
    found = evaluation(skills, seeds, shift)
    write_json(scores / "evaluate.json", found)
    write_json(scores / "claims.json", ledger(LEDGER, {"evaluate": found}, 0.95))
    write_csv(scores / "front.csv", front_rows(found))
    write_json(scores / f"{base}.json", {"parameters": 1_180_000, "loss": 1.21, "perplexity": 4.91})
    write_json(scores / "sft.json", {"loss": 0.31 + shift, "records": 2300, "filled": 0.97})
    write_json(scores / "preferences.json", {"pairs": 512, "ties": 3})
    write_json(scores / "reward.json", {"heldout_accuracy": 0.914, "heldout_margin": 1.9})
    write_json(scores / "raft.json", {"first_reward": -0.6, "last_reward": 1.9, "seeds": {"0": {"reward": [-0.6, 1.9]}}})
    write_json(scores / "average.json", {"models": 18, "relative_distance": {"layers 0 to 1": 0.04, "all": 0.05}})
    if not real:
        write_csv(scores / "pretrain.csv", curve(6.2, 1.2))
    write_csv(scores / "sft.csv", curve(2.4, 0.3))
    write_csv(scores / "reward.csv", curve(0.69, 0.2, accuracy=(0.5, 0.92)))
    courses = [(seed, k, 2 - 2.4 * 0.6**k + seed / 9) for seed in range(seeds) for k in ITERATIONS]
    told = [{"seed": seed, "iteration": k, "reward": reward, "kept_reward": reward + 0.4} for seed, k, reward in courses]
    write_csv(scores / "raft.csv", told)
    (place / "data/sets").mkdir(parents=True, exist_ok=True)
    (place / "data/sets/generations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in generations(skills)))
    (place / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (place / "params.yaml").write_text(json.dumps(params(real)))
    if recorded:
        for number, name in enumerate(STAGES):
            record(place, name, seconds=2.5 + 17 * number % 140, finished=f"2026-11-22T15:{10 + number}:02+0000")
    flags = {"base-scores": f"data/scores/{base}.json", "scores": "data/scores", "generations": "data/sets/generations.jsonl"}
    flags |= {"out": "data/report/summary.json", "page": "data/report/index.html"}
    return [word for flag, path in flags.items() for word in (f"--{flag}", path)]


def params(real: bool) -> dict:
    atlas = {"base": {"model": "data/models/pretrain", "scores": "data/scores/pretrain.json", "path": None}}
    atlas |= {"prompts": {"sets": "data/sets/corpus", "path": None}, "sources": []}
    fetched = {"base": {"model": "data/fetched/base", "scores": "data/scores/fetch-base.json", "path": "models/small"}}
    fetched |= {"prompts": {"sets": "data/fetched/prompts", "path": "stories.jsonl"}, "sources": ["base", "prompts"]}
    shared = {"sft": {"epochs": 2, "learning_rate": 0.001}, "average": {"w_pre": list(WEIGHTS), "rest": "mean"}, "report": {}}
    return (fetched if real else atlas) | shared


def record(place: Path, stage: str, *, seconds: float, finished: str) -> None:
    """Write the record of a stage's run as `temper run` does."""
    run = {"stage": stage, "seconds": seconds, "exit_code": 0, "finished": finished, "params": {}, "commit": "a" * 40}
    run |= {"versions": VERSIONS, "hardware": MACHINE}
    write_json(place / f".temper/history/{stage}.json", {"last": run, "completed": run})
