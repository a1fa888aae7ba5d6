"""Models and data to S3 and back beside plain boto3, on one server: a model of 256 MB, one in eight shards, 2,000 small files.

    PYTHONPATH=. python tests/bench/bench_transfer.py [MB] [FILES]

The peer is what `aws s3 cp` does: boto3's own transfers, ten at once. Beside it DVC's push and fetch as workers use them (forked
from a warm process), and the shelf of published models, which also hashes every byte on both ways. The server is moto's, in its
own process; what it takes of a core is printed too, for where it takes all of one it is the server that is measured.
"""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import psutil

from flows.host import TOOLS, kept
from flows.shelf import Shelf
from flows.workers.remote import transfer
from tasks.runtime.imports import ROOT

sys.path.insert(0, str(ROOT))  # `tests` is no installed package
from tests.flows.checkout import command, make_checkout
from tests.flows.site import KEYS

ROUNDS, WANTED, AT_ONCE, SHARDS, SMALL = 3, 0.8, 10, 8, 4096
WAYS = ("up", "down")


def server(place: Path) -> psutil.Popen:
    """Start an S3 server and name it in the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    with (place / "server.log").open("wb") as log:
        process = psutil.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return process


def plain(folder: Path, back: Path, prefix: str) -> dict[str, Callable[[], object]]:
    """Return boto3's own way up and down."""
    s3, paths = boto3.client("s3"), [path for path in folder.rglob("*") if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]

    def up(name: str) -> None:
        s3.upload_file(str(folder / name), "data", f"{prefix}/{name}")

    def down(name: str) -> None:
        (back / name).parent.mkdir(parents=True, exist_ok=True)
        s3.download_file("data", f"{prefix}/{name}", str(back / name))

    def all_of(way: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(way, names))

    return {"up": lambda: all_of(up), "down": lambda: all_of(down)}


def by_dvc(root: Path, prefix: str, tools: str) -> dict[str, Callable[[], object]]:
    """Return DVC's way: push, and fetch into an empty cache."""
    command(root, "dvc", "remote", "add", "--local", "-d", "-f", "store", f"s3://data/{prefix}")

    def fetch() -> None:
        shutil.rmtree(root / ".dvc/cache")
        transfer(root, "fetch", "data.dvc", tools=tools)

    return {"up": lambda: transfer(root, "push", "data.dvc", tools=tools), "down": fetch}


def by_shelf(folder: Path, back: Path, prefix: str) -> dict[str, Callable[[], object]]:
    """Return the shelf's way."""
    shelf = Shelf(f"s3://data/{prefix}")
    return {"up": lambda: shelf.publish(folder, "model", "1", {}, {}), "down": lambda: shelf.pull("model", "1", back)}


def measure(place: Path, what: str, sizes: list[int], process: psutil.Popen, tools: str) -> None:
    """Write a folder of files of these sizes, move it every way in turns, and print the best of each as a ratio to the peer."""
    root = make_checkout(place / what / "checkout")
    (root / "data").mkdir()
    for number, size in enumerate(sizes):
        (root / f"data/{number:05d}.safetensors").write_bytes(os.urandom(size))
    (root / "data/config.json").write_text("{}")
    command(root, "dvc", "add", "-q", "data")
    took: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(ROUNDS):
        back = place / what / f"back-{turn}"
        ways = {
            "boto3": plain(root / "data", back / "plain", f"{what}-{turn}/plain"),
            "DVC": by_dvc(root, f"{what}-{turn}/dvc", tools),
            "shelf": by_shelf(root / "data", back / "shelf", f"{what}-{turn}/shelf"),
        }
        for way in WAYS:
            for name, both in ways.items():
                took.setdefault((name, way), []).append(timed(both[way], process))
        shutil.rmtree(back)
    total = sum(sizes) / 2**20
    print(f"{what}: {len(sizes):,} files, {total:,.0f} MiB; best of {ROUNDS}")
    print(f"{'':16}{'s':>8}{'MiB/s':>8}{'ratio':>8}{'server':>8}  at least {WANTED} (server: its share of a core)")
    for (name, way), found in took.items():
        wall, share = min(found)
        print(f"{name + ' ' + way:16}{wall:>8.2f}{total / wall:>8.0f}{min(took['boto3', way])[0] / wall:>8.2f}{share:>8.2f}")


def timed(move: Callable[[], object], process: psutil.Popen) -> tuple[float, float]:
    """Return the seconds of one transfer, and the server's share of a core meanwhile."""
    began, spent = time.monotonic(), sum(process.cpu_times()[:2])
    move()
    wall = time.monotonic() - began
    return wall, (sum(process.cpu_times()[:2]) - spent) / wall


def main(megabytes: int = 256, files: int = 2000) -> None:
    """Measure a large model, whole and in shards, and many small files."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        process = server(place)
        try:
            boto3.client("s3").create_bucket(Bucket="data")
            with kept(place, "tools", TOOLS) as tools:
                measure(place, "one", [megabytes * 2**20], process, tools)
                measure(place, "shards", [megabytes * 2**20 // SHARDS] * SHARDS, process, tools)
                measure(place, "many", [SMALL] * files, process, tools)
        finally:
            process.kill()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
