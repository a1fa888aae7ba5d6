"""A project of any number of stages: a matrix of training and evaluation, chains of ten links, and a stage that gathers all."""

import hashlib
import json
import subprocess
from pathlib import Path

from dvc.repo import Repo

from flows.planning.graph import Graph, load_graph
from flows.planning.overlay import effective_params

METHODS = 8
LINKS = 10
PIPELINE = """\
stages:
  corpus:
    cmd: cp src/corpus.txt data/corpus.txt
    params: [corpus]
    deps: [src/corpus.txt]
    outs: [data/corpus.txt]
  train:
    matrix: {method: "${grid.methods}", seed: "${grid.seeds}"}
    cmd: >-
      sh src/train.sh --set train.method=${item.method} --set train.seed=${item.seed} --corpus data/corpus.txt
      --out data/models/${item.method}-${item.seed} --scores data/scores/train-${item.method}-${item.seed}.json
    params: [train]
    deps: [data/corpus.txt, src/train.sh]
    outs: ["data/models/${item.method}-${item.seed}"]
    metrics: [{"data/scores/train-${item.method}-${item.seed}.json": {cache: true}}]
  evaluate:
    matrix: {method: "${grid.methods}", seed: "${grid.seeds}"}
    cmd: sh src/evaluate.sh data/models/${item.method}-${item.seed} data/scores/evaluate-${item.method}-${item.seed}.json
    params: [evaluate]
    deps: ["data/models/${item.method}-${item.seed}", src/evaluate.sh]
    metrics: [{"data/scores/evaluate-${item.method}-${item.seed}.json": {cache: true}}]
  link:
    foreach: ${links}
    do:
      cmd: cat ${item.before} > ${item.after}
      deps: ["${item.before}"]
      outs: ["${item.after}"]
  gather:
    cmd: cat data/scores/*.json > data/table.json
    deps: [data/scores]
    outs: [data/table.json]
"""


def make(root: Path, stages: int) -> Path:
    """Make a checkout of about `stages` stages, two fifths of them models, as many evaluations, the rest chains."""
    seeds = max(1, 2 * stages // 5 // METHODS)
    chains = max(1, (stages - 2 * METHODS * seeds - 2) // LINKS)
    links = [
        {"before": f"data/links/{chain}-{link - 1}.txt" if link else "data/corpus.txt", "after": f"data/links/{chain}-{link}.txt"}
        for chain in range(chains)
        for link in range(LINKS)
    ]
    grid = {"methods": [f"m{number}" for number in range(METHODS)], "seeds": list(range(seeds))}
    sections = {"corpus": {"size": 3}, "train": {"method": "none", "seed": 0, "rate": 0.1}, "evaluate": {"questions": 10}}
    (root / "src").mkdir(parents=True)
    for name in ("corpus.txt", "train.sh", "evaluate.sh"):
        (root / "src" / name).write_text(f"{name}\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    values = {**sections, "grid": grid, "links": links}
    (root / "params.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    (root / ".gitignore").write_text("/data/\n/.temper/\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    Repo.init(str(root)).close()
    return root


def finish(root: Path) -> Graph:
    """Make everything up to date without running or committing anything: outs, cache and dvc.lock as DVC would leave them."""
    params = effective_params(root, None)
    graph = load_graph(root, params)
    made = {out.path: _put(root, out.path) for stage in graph.stages.values() for out in stage.outs}
    lines = ["schema: '2.0'", "stages:"]
    for stage in graph.stages.values():
        lines += [f"  {stage.name}:", f"    cmd: {stage.cmd}", "    deps:"]
        for dep in stage.deps:
            lines += _noted(dep, *(made.get(dep) or _found(root / dep)))
        if stage.param_keys:
            lines += [
                "    params:",
                "      params.yaml:",
                *(f"        {key}: {json.dumps(params[key])}" for key in stage.param_keys),
            ]
        lines.append("    outs:")
        for out in stage.outs:
            lines += _noted(out.path, *made[out.path])
    (root / "dvc.lock").write_text("\n".join(lines) + "\n")
    return graph


def _put(root: Path, path: str) -> tuple[str, int]:
    """Write an out, a small folder for a model, and keep it in the cache; return its hash and size."""
    if Path(path).suffix:
        return _kept(root, path, f'{{"{path}": 1}}\n'.encode())
    files = {name: _kept(root, f"{path}/{name}", f"{path} {name}\n".encode()) for name in ("config.json", "model.safetensors")}
    tree = json.dumps([{"md5": md5, "relpath": name} for name, (md5, _) in sorted(files.items())], sort_keys=True).encode()
    return _cached(root, tree, ".dir"), sum(size for _, size in files.values())


def _kept(root: Path, path: str, content: bytes) -> tuple[str, int]:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    return _cached(root, content), len(content)


def _cached(root: Path, content: bytes, ending: str = "") -> str:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + ending
    place = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    place.chmod(0o444)
    return md5


def _found(place: Path) -> tuple[str, int]:
    """Return hash and size of a source, or of a folder of outs."""
    if place.is_file():
        return hashlib.md5(place.read_bytes(), usedforsecurity=False).hexdigest(), place.stat().st_size
    files = {file.relative_to(place).as_posix(): _found(file) for file in sorted(place.rglob("*")) if file.is_file()}
    tree = json.dumps([{"md5": md5, "relpath": name} for name, (md5, _) in sorted(files.items())], sort_keys=True).encode()
    return hashlib.md5(tree, usedforsecurity=False).hexdigest() + ".dir", sum(size for _, size in files.values())


def _noted(path: str, md5: str, size: int) -> list[str]:
    return [f"    - path: {path}", "      hash: md5", f"      md5: {md5}", f"      size: {size}"]
