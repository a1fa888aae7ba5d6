"""Finished models in object storage: `s3://BUCKET/PREFIX/models/NAME/VERSION/`, whole or not there at all.

A version is a plain Hugging Face folder with `manifest.json` beside it, which names every file by size and SHA-256, the scores of
the stage that made it, and its provenance. The manifest is written last and only where there is none: a version without one
is not listed and cannot be pulled. Before the first file a claim on the version is written, also only where there is none, which
holds the digest of its content; so a publication that was killed goes on, and another model is refused the same version.

Address and credentials are those of any AWS program: AWS_ENDPOINT_URL_S3, AWS_PROFILE, AWS_ACCESS_KEY_ID and so on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.exceptions import Boto3Error, RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError

from flows.planning import history
from tasks.runtime.chaos import reach
from tasks.runtime.checkpoint import sha256
from tasks.runtime.params import UserError, read_yaml

CLAIM, MANIFEST = "claim.json", "manifest.json"
PLACE = re.compile(r"^s3://(?P<bucket>[a-z0-9][a-z0-9.-]+)(?:/(?P<prefix>.*))?$")
WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
PART = 16 * 2**20
"""Bytes of one part of an upload; a larger file goes up in several, side by side."""
AT_ONCE = 10
"""Files, or parts of a single large one, on their way at once: as `aws s3 cp` has it."""
TRIES = 5
"""How often a file that arrives damaged or cut off is asked for again."""
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
SETTINGS = Config(
    retries={"mode": "standard", "max_attempts": 8},
    connect_timeout=10,
    read_timeout=60,
    request_checksum_calculation="when_supported",
    max_pool_connections=2 * AT_ONCE,
)


@dataclass(frozen=True)
class Version:
    """One published model."""

    name: str
    version: str
    files: Mapping[str, Mapping[str, Any]]
    """`sha256` and `size` in bytes of every file, by its path below the model's folder."""
    scores: Mapping[str, Any]
    provenance: Mapping[str, Any]
    """The commit, and the stage's entry in dvc.lock: command, params, and the hashes of deps and outs."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.files.values())


class Shelf:
    """The models below one address."""

    def __init__(self, address: str) -> None:
        """Name the shelf by `s3://BUCKET/PREFIX`. Raises UserError for an address of another form."""
        if not (found := PLACE.match(address)):
            raise UserError(f"{address}: not an address of the form s3://BUCKET/PREFIX")
        self.bucket = found["bucket"]
        self._prefix = (found["prefix"] or "").strip("/")
        self._s3 = boto3.client("s3", config=SETTINGS)

    def publish(self, folder: Path, name: str, version: str, scores: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
        """Publish the model in `folder`; return the address of its version. Doing it again with the same files changes nothing.

        Raises UserError when the version holds another model, for a folder that is none, and when the storage fails for good.
        """
        files = contents(folder)
        place = self._place(name, version)
        claim = {"content": digest(files)}
        with self._explained(place):
            new = self._read(f"{place}/{CLAIM}") is None and self._put_new(f"{place}/{CLAIM}", claim)
            if self._read(f"{place}/{CLAIM}") != claim:  # read again: not every storage knows how to write only what is new
                raise UserError(f"{self._url(place)} holds another model; a version is never overwritten: choose a new one")
            _at_once(files, lambda path, how: self._upload(folder / path, f"{place}/{path}", files[path], how, new=new))
            self._put_new(f"{place}/{MANIFEST}", {"files": files, "scores": scores, "provenance": provenance})
        return self._url(place)

    def versions(self) -> list[Version]:
        """Return every published model, sorted by name and version; unfinished publications are not among them."""
        root = self._key("models") + "/"
        with self._explained(root):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root)
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
            whole = [key.removeprefix(root).split("/") for key in keys if key.endswith(f"/{MANIFEST}")]
            return [self.version(parts[0], parts[1]) for parts in sorted(whole) if len(parts) == 3]

    def version(self, name: str, version: str) -> Version:
        """Return what the manifest of one version says. Raises UserError when there is no such version."""
        place = self._place(name, version)
        with self._explained(place):
            body = self._read(f"{place}/{MANIFEST}")
        if body is None:
            raise UserError(f"{self._url(place)}: no published model; `temper published` lists what there is")
        return Version(name, version, body["files"], body["scores"], body["provenance"])

    def pull(self, name: str, version: str, folder: Path) -> Version:
        """Bring a version to `folder`, which appears whole or not at all; what an earlier try brought is kept and checked.

        Raises UserError when there is no such version, when `folder` holds something else, or when files stay damaged.
        """
        found = self.version(name, version)
        if folder.exists():
            if contents(folder) != found.files:
                raise UserError(f"{folder}: holds something else than {name} {version}; name another folder or remove it")
            return found
        draft = folder.with_name(f".{folder.name}.{digest(found.files)[:12]}")
        with self._explained(self._place(name, version)):
            places = {path: inside(draft, path) for path in found.files}
            place = self._place(name, version)
            _at_once(found.files, lambda path, how: self._download(f"{place}/{path}", places[path], found.files[path], how))
        for stray in set(_files(draft)) - set(found.files):
            (draft / stray).unlink()
        draft.rename(folder)
        return found

    def _upload(self, source: Path, key: str, entry: Mapping[str, Any], how: TransferConfig, *, new: bool) -> None:
        """Send a file unless it is there already, as none is for a `new` version; the storage checks the sum of each part."""
        if not new and self._holds(key, entry):
            return
        more = {"Metadata": {"sha256": entry["sha256"]}, "ChecksumAlgorithm": "SHA256"}
        reach("push", source.name)
        self._s3.upload_file(str(source), self.bucket, key, ExtraArgs=more, Config=how)

    def _holds(self, key: str, entry: Mapping[str, Any]) -> bool:
        try:
            there = self._s3.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if _status(error) != 404:
                raise
            return False
        return bool(there["ContentLength"] == entry["size"] and there["Metadata"].get("sha256") == entry["sha256"])

    def _download(self, key: str, target: Path, entry: Mapping[str, Any], how: TransferConfig) -> None:
        """Bring a file and check it, several times if need be."""
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            if target.is_file() and target.stat().st_size == entry["size"] and sha256(target) == entry["sha256"]:
                return
            try:
                self._s3.download_file(self.bucket, key, str(target), Config=how)
            except (IncompleteReadError, ResponseStreamingError, RetriesExceededError):
                continue  # cut off: the check above says so, and it is asked for again
        if not target.is_file() or sha256(target) != entry["sha256"]:
            target.unlink(missing_ok=True)
            raise UserError(f"{self._url(key)} arrives damaged {TRIES} times: its SHA-256 is not that of its manifest")

    def _put_new(self, key: str, body: Mapping[str, Any]) -> bool:
        """Write JSON where there is nothing yet; return whether there was nothing."""
        try:
            self._s3.put_object(Bucket=self.bucket, Key=key, Body=json.dumps(body, indent=1).encode(), IfNoneMatch="*")
        except ClientError as error:
            if _status(error) not in (409, 412):
                raise
            return False
        return True

    def _read(self, key: str) -> Any:
        """Return the JSON at a key, None where there is nothing; what is cut off is asked for again."""
        for left in reversed(range(TRIES)):
            try:
                return json.loads(self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
            except ClientError as error:
                if _status(error) != 404:
                    raise
                return None
            except (IncompleteReadError, ResponseStreamingError):
                if not left:
                    raise
        return None

    def _place(self, name: str, version: str) -> str:
        for word in (name, version):
            if not WORD.match(word):
                raise UserError(
                    f"{word!r}: a name or version has letters, digits, '.', '_', '-', and begins with one of the first two"
                )
        return self._key(f"models/{name}/{version}")

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn what the storage says, after all retries, into a refusal that names the place."""
        try:
            yield
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise UserError(f"{self._url(key)}: {error}; what was transferred is kept, the same command goes on") from None


def _at_once(files: Collection[str], move: Callable[[str, TransferConfig], None]) -> None:
    """Move files side by side, and the parts of large ones where there are few; the first error ends all that has not begun."""
    parts = max(1, AT_ONCE // max(1, len(files)))
    how = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=parts, use_threads=parts > 1)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        moving = [pool.submit(move, path, how) for path in files]
        try:
            for one in moving:
                one.result()
        finally:
            pool.shutdown(cancel_futures=True)


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file of a model's folder, by path. Raises UserError for pickles, or no model."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model folder: it has no config.json")
    found = _files(folder)
    if pickled := [path for path in found if path.endswith(PICKLED)]:
        raise UserError(f"{folder}: holds pickles ({', '.join(pickled)}), which can run code when opened; publish safetensors")
    return {path: {"sha256": sha256(folder / path), "size": (folder / path).stat().st_size} for path in found}


def digest(files: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a listing of files: what makes two models the same."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def inside(folder: Path, path: str) -> Path:
    """Return where a file of a manifest goes. Raises UserError for a path that would leave `folder`."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise UserError(f"the manifest names {path!r}, which lies outside the model's folder: it is not to be trusted")
    return folder / parts


def provenance(root: Path, folder: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the stage whose out `folder` is or lies in, and what dvc.lock says of it; None and the commit alone if none is."""
    facts: dict[str, Any] = {"commit": history.commit(root), "versions": history.versions()}
    lock = root / "dvc.lock"
    stages = read_yaml(lock).get("stages", {}) if lock.is_file() else {}
    where = folder.resolve()
    for name, entry in stages.items():
        outs = [(root / out["path"]).resolve() for out in entry.get("outs", ())]
        if any(where == out or out in where.parents for out in outs):
            return name, {**facts, "stage": name, "lock": entry}
    return None, facts


def scores_of(root: Path, stage: str | None) -> dict[str, Any]:
    """Return what the metrics of a stage say in this checkout, by file, as far as they are there."""
    if stage is None:
        return {}
    listed = read_yaml(root / "dvc.lock").get("stages", {})[stage].get("outs", ())
    scores = [root / out["path"] for out in listed if out["path"].endswith(".json") and "scores" in Path(out["path"]).parts]
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in scores if path.is_file()}


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
