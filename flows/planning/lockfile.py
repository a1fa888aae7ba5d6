"""dvc.lock, read quickly: ten thousand stages are six megabytes of YAML, seven seconds for a parser.

DVC writes the file by machine and always in the same way. What looks exactly like that is taken as it stands; every other piece
of text, and a file of any other shape, is given to DVC's own reader. So a reading is DVC's reading, or the test that holds the
two against each other fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

HEAD = re.compile(r"schema: '2\.0'\nstages:\n")
NAME = re.compile(r"^  ([A-Za-z_][\w@.+-]*):\n", re.M)
"""The key of a stage, as the only thing that stands two blanks in. A number or a word like `null` gets quotes from DVC."""
WORDS_WITH_A_MEANING = {"null", "true", "false", "none", "yes", "no", "on", "off", "y", "n"}
PATH = r"[A-Za-z_][\w.+@=-]*(?:/[\w.+@=-]+)+|[A-Za-z_]\w*\.[A-Za-z]\w*"
"""A path with a folder or an ending: nothing that YAML could take for a number or a word of its own."""
ENTRY = re.compile(
    rf"    - path: ({PATH})\n      hash: md5\n      md5: ([0-9a-f]{{32}}(?:\.dir)?)\n"
    r"      size: (\d+)\n(?:      nfiles: (\d+)\n)?"
)
PART = re.compile(r"^    (cmd|deps|params|outs):(?: |\n)", re.M)
COMMAND = re.compile(r"[A-Za-z][^\s:#]*(?: [^\s:#]+)+")
"""Several words without what could begin a comment or a mapping: YAML takes them as they stand."""

Loader = Callable[[str], Mapping[str, Any]]


def read(text: str, load: Loader) -> Mapping[str, Any]:
    """Return what a dvc.lock says of each stage; `load` is DVC's reader of a whole file, and raises what it raises."""
    head = HEAD.match(text)
    if head is None or "\n  " not in text or re.search(r"^\S", text[head.end() :], re.M):
        return load(text)
    memory: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, body in _bodies(text[head.end() :]):
        if name in found or name.lower() in WORDS_WITH_A_MEANING:
            return load(text)
        found[name] = _entry(body, load, memory)
        if found[name] is None:
            return load(text)
    return found


def _bodies(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every stage; one without a name where the text begins with anything else."""
    places = list(NAME.finditer(text))
    if not places or places[0].start():
        yield "null", text
    for place, following in zip(places, [*places[1:], None], strict=True):
        yield place[1], text[place.end() : following.start() if following else len(text)]


def _entry(body: str, load: Loader, memory: dict[str, Any]) -> dict[str, Any] | None:
    """Return what stands below the name of a stage; None when it is not what DVC writes."""
    places = list(PART.finditer(body))
    if not places or places[0].start():
        return None
    entry: dict[str, Any] = {}
    for place, following in zip(places, [*places[1:], None], strict=True):
        key, text = place[1], body[place.end() : following.start() if following else len(body)]
        if key in entry:
            return None
        value = _files(text) if key in ("deps", "outs") else _command(text) if key == "cmd" else None
        if value is None:
            whole = body[place.start() : place.end()] + text
            value = memory[whole] if whole in memory else _loaded(key, whole, load)
            memory[whole] = value
        if value is None:
            return None
        entry[key] = value
    return entry


def _files(text: str) -> list[dict[str, Any]] | None:
    """Return the entries of a list of deps or outs; None unless all of it looks as DVC writes files and folders."""
    found, end = [], 0
    for match in ENTRY.finditer(text):
        if match.start() != end:
            return None
        end = match.end()
        path, md5, size, nfiles = match.groups()
        entry: dict[str, Any] = {"path": path, "hash": "md5", "md5": md5, "size": int(size)}
        found.append(entry if nfiles is None else {**entry, "nfiles": int(nfiles)})
    return found if found and end == len(text) else None


def _command(text: str) -> str | None:
    """Return a command that YAML has folded onto several lines, if its words are plain."""
    lines = text.splitlines()
    if not all(line.startswith("      ") for line in lines[1:]):
        return None
    joined = " ".join([lines[0], *(line[6:] for line in lines[1:])]) if lines else ""
    return joined if COMMAND.fullmatch(joined) else None


def _loaded(key: str, text: str, load: Loader) -> Any:
    """Have DVC's reader read one part of a stage, in a file of its own; None when that is not possible."""
    stage = "" if key == "cmd" else "    cmd: x\n"
    try:
        return load(f"schema: '2.0'\nstages:\n  part:\n{stage}{text}")["part"][key]
    except Exception:  # noqa: BLE001  whatever is wrong is told by DVC's reader of the whole file
        return None
