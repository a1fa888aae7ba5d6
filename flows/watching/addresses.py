"""Where a run's outs and report can be opened: addresses for Prefect's page, on the server and in the DVC remote.

An address may be shown to whoever sees the page, so what may be a secret in it, user and password, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from flows.planning.graph import Stage
from flows.planning.recorded import entries
from flows.report import page_of

BUCKETS = "https://s3.console.aws.amazon.com/s3/object"


@dataclass(frozen=True)
class Remote:
    """The DVC remote that outs are pushed to."""

    url: str
    """As DVC has it: `s3://BUCKET/PREFIX`, a folder, ..."""
    endpoint: str = ""
    """Of an S3 server that is not Amazon's."""

    def object(self, md5: str) -> str:
        """Return the address of an object as the remote's own tools take it."""
        return f"{_plain(self.url).rstrip('/')}/files/md5/{md5[:2]}/{md5[2:]}"

    def link(self, md5: str) -> str:
        """Return Markdown that opens an object where a browser can, else names it."""
        place = self.object(md5)
        parts = urlsplit(place)
        if parts.scheme == "s3" and self.endpoint:
            return f"[{place}]({_plain(self.endpoint).rstrip('/')}/{parts.netloc}{parts.path})"
        if parts.scheme == "s3":
            return f"[{place}]({BUCKETS}/{parts.netloc}?prefix={parts.path.lstrip('/')})"
        if parts.scheme in ("http", "https"):
            return f"[{place}]({place})"
        return f"`{place}`"


def remote_of(root: Path) -> Remote | None:
    """Return the checkout's default DVC remote, None where there is none."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote")
        found = repo.config["remote"].get(name) if name else None
    return Remote(str(found["url"]), str(found.get("endpointurl") or "")) if found else None


def hashes(root: Path, stage: Stage) -> dict[str, str]:
    """Return the md5 of each out of a stage as dvc.lock has it."""
    outs = entries(root, stage.file).get(stage.name, {}).get("outs", [])
    return {str(out["path"]): str(out["md5"]) for out in outs if out.get("md5")}


def served_at(root: Path) -> str | None:
    """Return where the checkout's own server serves its reports (flows.watching.pages); None when another one is used."""
    from prefect.settings import get_current_settings

    from flows.server import HOME

    try:
        own = (root / HOME / "address").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return own.removesuffix("/api") if own and own == get_current_settings().api.url else None


def of_run(root: Path, studies: Sequence[str], served: str | None, remote: Remote | None) -> str:
    """Return Markdown that leads from a run to its reports, opened through the server at `served`, and to the DVC remote."""
    told = [_report(root, study, served) for study in (*studies, None)]
    if remote is None:
        told.append("No DVC remote is set: `dvc remote add -d NAME s3://BUCKET/PATH` makes the outs reachable from elsewhere.")
    else:
        told.append(f"DVC remote: `{_plain(remote.url)}`. It holds what `dvc push` has brought there.")
    return "\n\n".join(told)


def _report(root: Path, study: str | None, served: str | None) -> str:
    place, name = page_of(study), f"report of {study}" if study else "report"
    if not (root / place).is_file():
        return f"There is no {name} yet: `{place}`."
    if served:
        return f"[Open the {name}]({served}/{place.as_posix()})"
    return f"The {name} is `{(root / place).resolve()}`."


def _plain(address: str) -> str:
    """Leave user and password out of an address."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.scheme else address
