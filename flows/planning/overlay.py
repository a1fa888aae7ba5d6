"""Which params are in effect: params.yaml, overlaid by a profile, overlaid by `--set`; and params.yaml put back afterwards.

Stages and DVC read params.yaml and nothing else, so that a stage run by hand, `dvc repro` and `temper run` see the same
values. A run with an overlay therefore writes the effective values there for its time and keeps the original beside it;
should the run be killed, the next command puts the original back.
"""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from tasks.runtime.lease import Lease
from tasks.runtime.params import PARAMS_FILE, UserError, read_yaml

PROFILES = Path("flows/profiles")
BEFORE = Path(".temper/params.before.yaml")
DURING = Path(".temper/params.during.yaml")
EDITED = Path(".temper/params.edited.yaml")
REPLACED = Path(".temper/params.replaced.yaml")
RUN_LEASE = Path(".temper/work/run")


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, where ruamel would leave the value out."""

    def represent_none(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def effective_params(root: Path, profile: str | None, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Return the params with `profile` and then each `a.b=value` of `sets` laid over them.

    Raises UserError for an unknown profile, a section that params.yaml does not have, or a `--set` that is not `key=value`.
    """
    params = read_yaml(source(root))
    if profile is not None:
        place = profile_file(root, profile)
        params = merge(params, read_yaml(place), str(place.relative_to(root)))
    for item in sets:
        params = merge(params, parse_set(item), f"--set {item}")
    return params


def source(root: Path) -> Path:
    """Return the file that holds the user's own params: params.yaml, or its original while a run has overlaid it."""
    return root / BEFORE if (root / BEFORE).exists() else root / PARAMS_FILE


def origin(root: Path, section: str, profile: str | None, sets: Sequence[str] = ()) -> str:
    """Say which files and options give `section` its values, for messages: `params.yaml + flows/profiles/smoke.yaml`."""
    found = [str(PARAMS_FILE)]
    if profile is not None and section in read_yaml(profile_file(root, profile)):
        found.append(str(PROFILES / f"{profile}.yaml"))
    found.extend(f"--set {item}" for item in sets if item.split("=")[0].split(".")[0].strip() == section)
    return " + ".join(found)


def merge(params: Mapping[str, Any], over: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Lay the sections of `over` over those of `params`; mappings merge, everything else is replaced."""
    merged = dict(params)
    for section, values in over.items():
        if section not in merged:
            raise UserError(f"{where}: params.yaml has no section '{section}'{_meant(str(section), merged)}")
        if isinstance(merged[section], Mapping) and not isinstance(values, Mapping):
            known = ", ".join(f"{section}.{key}" for key in merged[section])
            raise UserError(f"{where}: '{section}' is a section; set one of its keys: {known}")
        merged[section] = _deep(merged[section], values)
    return merged


def parse_set(item: str) -> dict[str, Any]:
    """Turn `a.b=value` into `{"a": {"b": value}}`, the value read as YAML."""
    key, equals, text = item.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise UserError(f"--set {item}: wants section.key=value, for example --set sft.learning_rate=3e-4")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise UserError(f"--set {item}: the value is not valid YAML; quote it: --set '{key}=\"...\"'") from None
    for name in reversed(names):
        value = {name: value}
    return dict(value)


def profile_names(root: Path) -> dict[str, str]:
    """Return every profile and its description, the comment on the first line of its file."""
    found = {}
    for place in sorted((root / PROFILES).glob("*.yaml")):
        first = place.read_text(encoding="utf-8").partition("\n")[0]
        found[place.stem] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def profile_file(root: Path, name: str) -> Path:
    """Return the file of a profile. Raises UserError naming those there are."""
    names = profile_names(root)
    if name not in names:
        raise UserError(f"no profile '{name}'{_meant(name, names)}; there are {', '.join(names) or 'none'}")
    return root / PROFILES / f"{name}.yaml"


def changes(root: Path, profile: str) -> list[tuple[str, str, str]]:
    """Return (param, value now, value of the profile) for every param that a profile would change."""
    return _changes(read_yaml(source(root)), effective_params(root, profile))


def render(root: Path, params: Mapping[str, Any]) -> str:
    """Return the text of params.yaml with the values of `params`: its own text where nothing differs, comments kept."""
    text = source(root).read_text(encoding="utf-8")
    plain = read_yaml(source(root))
    if _same(plain, params):
        return text
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(text)
    _write_into(document, plain, params)
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


@contextmanager
def applied(root: Path, params: Mapping[str, Any]) -> Iterator[None]:
    """Have params.yaml hold `params` while the block runs; needs the run lease. Nothing is written when it holds them already."""
    text = render(root, params)
    original = (root / PARAMS_FILE).read_text(encoding="utf-8")
    if text == original:
        yield
        return
    (root / BEFORE).parent.mkdir(parents=True, exist_ok=True)
    _replace(root / DURING, text)
    _replace(root / BEFORE, original)
    _replace(root / PARAMS_FILE, text)
    try:
        yield
    finally:
        put_back(root)


def use(root: Path, profile: str) -> bool:
    """Write a profile into params.yaml for good; return whether that changed anything. Needs the run lease.

    What stood there is kept in REPLACED: it may hold edits that git does not know.
    """
    text = render(root, effective_params(root, profile))
    before = (root / PARAMS_FILE).read_text(encoding="utf-8")
    if text == before:
        return False
    (root / REPLACED).parent.mkdir(exist_ok=True)
    _replace(root / REPLACED, before)
    _replace(root / PARAMS_FILE, text)
    return True


def recover(root: Path) -> str | None:
    """Put params.yaml back when a run was killed before it could; return a notice, or None when there was nothing to do."""
    if not (root / BEFORE).exists():
        return None
    try:
        with Lease(root / RUN_LEASE, "this checkout"):
            edited = put_back(root)
    except UserError:
        return None
    notice = f"an earlier run was killed while its overlay stood in {PARAMS_FILE}; your own values are back"
    return f"{notice}, what you wrote there since is in {EDITED}" if edited else notice


def put_back(root: Path) -> bool:
    """Restore the original params.yaml; return True when the user had edited it meanwhile; that text is then in EDITED."""
    now = (root / PARAMS_FILE).read_text(encoding="utf-8")
    known = [place.read_text(encoding="utf-8") for place in (root / BEFORE, root / DURING) if place.exists()]
    edited = now not in known
    if edited:
        _replace(root / EDITED, now)
    (root / BEFORE).replace(root / PARAMS_FILE)
    (root / DURING).unlink(missing_ok=True)
    return edited


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], under: str = "") -> list[tuple[str, str, str]]:
    found = []
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            found.extend(_changes(before, value, f"{under}{key}."))
        elif key not in old or not _same(before, value):
            found.append((f"{under}{key}", "" if key not in old else str(before), str(value)))
    return found


def _deep(value: Any, over: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(over, Mapping):
        return {**value, **{key: _deep(value.get(key), item) for key, item in over.items()}}
    return over


def _write_into(document: CommentedMap, plain: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Change in a round-trip document only the leaves that differ, so that its comments and layout stay."""
    for key, value in params.items():
        old = plain.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            _write_into(document[key], old, value)
        elif key not in plain or not _same(old, value):
            document[key] = _flow(value)


def _flow(value: Any) -> Any:
    """Write a list on one line, as params.yaml has them."""
    if not isinstance(value, list):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _same(one: Any, other: Any) -> bool:
    """Compare values and types: YAML's `1`, `1.0` and `true` are equal in Python and not to a stage."""
    return repr(one) == repr(other)


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, [str(key) for key in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _replace(place: Path, text: str) -> None:
    """Write a file as a whole: a reader sees the old text or the new."""
    draft = place.with_name(f".{place.name}.draft-{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(place)
