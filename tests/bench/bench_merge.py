"""Averaging two 1 GB models: the stage against mergekit and against a plain loop, whole process against whole process.

    python tests/bench/bench_merge.py [--runs 3] [--folder /tmp]

Makes two bfloat16 Llamas of 491 million parameters in four shards each, averages them with w_pre 0.3 and prints wall time (best
run), CPU time, the peak of anonymous memory (memory-mapped pages of the inputs are not counted), and the ratio to mergekit. The
stage also hashes both inputs and flushes its out to disk, which the others do not. Below: the floor, and a check of the numbers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
W_PRE = 0.3
LOOP = """
import sys, json, torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import save_file
pre, post, out = map(Path, sys.argv[1:])
out.mkdir()
for shard in sorted(pre.glob("*.safetensors")):
    with safe_open(shard, "pt") as one, safe_open(post / shard.name, "pt") as other:
        blend = lambda name: (0.3 * one.get_tensor(name).float() + 0.7 * other.get_tensor(name).float()).bfloat16()
        save_file({name: blend(name) for name in one.keys()}, out / shard.name, {"format": "pt"})
"""


def make_models(folder: Path) -> None:
    """Write `pre` and `post`: Llamas with random weights, saved by transformers."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    shape = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 7, "num_attention_heads": 16}
    torch.set_default_dtype(torch.bfloat16)
    for seed, name in enumerate(("pre", "post")):
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(vocab_size=32000, **shape)).save_pretrained(folder / name, max_shard_size="260MB")


def contenders(folder: Path) -> dict[str, tuple[list[str], Path]]:
    """Return the command of each contender and the folder it writes."""
    models = [{"model": str(folder / name), "parameters": {"weight": w}} for name, w in (("pre", W_PRE), ("post", 1 - W_PRE))]
    (folder / "mergekit.yaml").write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": "bfloat16"}))
    (folder / "params.yaml").write_text(json.dumps({"average": {"w_pre": [W_PRE], "rest": "mean"}}))
    (folder / "loop.py").write_text(LOOP)
    python, inputs = sys.executable, ["--pre", "pre", "--post", "post"]
    return {
        "mergekit linear": ([str(Path(python).with_name("mergekit-yaml")), "mergekit.yaml", "theirs"], folder / "theirs"),
        "plain torch loop": ([python, "loop.py", "pre", "post", "loop"], folder / "loop"),
        "temper average": (
            [python, "-m", "tasks.average.average", *inputs, "--out", "ours", "--scores", "scores.json"],
            folder / "ours",
        ),
    }


def measure(command: list[str], folder: Path, out: Path) -> tuple[float, float, float]:
    """Run a command once; return wall seconds, CPU seconds and the peak of its anonymous memory in MB."""
    subprocess.run(["rm", "-rf", out], check=True)
    os.sync()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    started, before = time.perf_counter(), os.times()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_kb(process.pid))
            time.sleep(0.005)
    wall, after = time.perf_counter() - started, os.times()
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    return wall, sum(after[2:4]) - sum(before[2:4]), peak / 1000


def anonymous_kb(pid: int) -> int:
    """Return the anonymous resident memory of a process, 0 when it is just ending."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def floor(folder: Path) -> str:
    """Measure what no averaging can avoid: both inputs through memory once, the out to disk; and hashing the inputs."""
    shards = [*(folder / "pre").glob("*.safetensors"), *(folder / "post").glob("*.safetensors")]
    size = sum(shard.stat().st_size for shard in shards)
    buffer = bytearray(1 << 20)
    started = time.perf_counter()
    for shard in shards:
        with shard.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    read = time.perf_counter() - started
    started = time.perf_counter()
    with (folder / "written").open("wb", buffering=0) as file:
        for _ in range(size // 2 // len(buffer)):
            file.write(buffer)
        os.fsync(file.fileno())
    write = time.perf_counter() - started
    import_time = min(_timed([sys.executable, "-c", "import tasks.average.average"]) for _ in range(3))
    return (
        f"floor: read {size / 1e9:.2f} GB in {read:.2f} s, write and flush {size / 2e9:.2f} GB in {write:.2f} s, "
        f"start Python {import_time:.2f} s: {read + write + import_time:.2f} s"
    )


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - started


def check(folder: Path, out: Path) -> str:
    """Compare every number of an out with the float64 average: nearest value, or how far from it."""
    near, equal, count = 0, 0, 0
    for shard in sorted((folder / "pre").glob("*.safetensors")):
        sides = safe_open(shard, "pt"), safe_open(folder / "post" / shard.name, "pt"), open_out(out, shard)
        with sides[0] as one, sides[1] as other, sides[2] as result:
            for name in one.keys():  # noqa: SIM118  not a dict
                reference = W_PRE * one.get_tensor(name).double() + (1 - W_PRE) * other.get_tensor(name).double()
                found = result.get_tensor(name).double()
                half_unit = torch.exp2(torch.frexp(reference)[1].double().clamp(min=-125) - 9)
                near += int(((found - reference).abs() <= half_unit * (1 + 2**-15)).sum())
                equal += int((found == reference.bfloat16().double()).sum())
                count += found.numel()
    return f"{near / count:.5%} within half a unit of the float64 average, {equal / count:.5%} equal to torch's rounding of it"


def open_out(out: Path, shard: Path):
    """Open the file of an out that holds what `shard` holds."""
    found = next(path for path in (out / shard.name, out / "w_pre-0.3" / shard.name, out / "model.safetensors") if path.exists())
    return safe_open(found, "pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the 5 GB go while this runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_models(folder)
        commands = contenders(folder)
        results = {label: [] for label in commands}
        for _ in range(options.runs):
            for label, (command, out) in commands.items():
                results[label].append(measure(command, folder, out))
        best = {label: np.min(runs, axis=0) for label, runs in results.items()}
        base = best["mergekit linear"]
        print(f"\n{'':18} {'wall s':>8} {'CPU s':>8} {'anonymous MB':>13} {'speed':>8}")
        for label, (wall, cpu, memory) in best.items():
            print(f"{label:18} {wall:8.2f} {cpu:8.2f} {memory:13.0f} {base[0] / wall:7.2f}x")
        print(floor(folder))
        for label, (_, out) in commands.items():
            print(f"{label}: {check(folder, out)}")


if __name__ == "__main__":
    main()
