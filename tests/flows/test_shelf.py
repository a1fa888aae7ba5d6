"""Published models: whole or not there, never overwritten, what comes down is what went up. Against a real S3 server."""

import json
import os
import signal
import threading
from pathlib import Path

import boto3
import httpx
import pytest
from botocore.config import Config

from flows import shelf as shelves
from flows.shelf import Shelf, contents, inside, provenance, scores_of
from tasks.runtime.chaos import FAIL_AT
from tasks.runtime.params import UserError
from tests.flows.faulty import FAULTS, Faulty

BUCKET = "models-of-mine"


@pytest.fixture
def aws(storage, monkeypatch):
    """The environment of an AWS user of that server, with an empty bucket; returns a client that looks beneath the shelf."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": storage,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{storage}/moto-api/reset")
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def shelf(aws) -> Shelf:
    return Shelf(f"s3://{BUCKET}/team/")


@pytest.fixture
def model(tmp_path) -> Path:
    """A model's folder: the storage looks at files, not into them."""
    folder = tmp_path / "model"
    (folder / "shards").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# a card\n")
    (folder / "shards/model.safetensors").write_bytes(bytes(range(256)) * 8)
    return folder


def keys(aws) -> set[str]:
    return {entry["Key"] for entry in aws.list_objects_v2(Bucket=BUCKET).get("Contents", ())}


def test_what_comes_down_is_what_went_up(shelf, model, tmp_path):
    place = shelf.publish(model, "aligned", "1.0", {"sft.json": {"loss": 1.5}}, {"commit": "abc"})
    assert place == f"s3://{BUCKET}/team/models/aligned/1.0"
    found = shelf.pull("aligned", "1.0", tmp_path / "here")
    assert contents(tmp_path / "here") == contents(model) == found.files
    assert (found.scores, found.provenance) == ({"sft.json": {"loss": 1.5}}, {"commit": "abc"})
    assert [(one.name, one.version) for one in shelf.versions()] == [("aligned", "1.0")]
    assert list(tmp_path.glob(".here.*")) == []


def test_publishing_and_pulling_again_change_nothing(shelf, model, tmp_path, aws):
    shelf.publish(model, "aligned", "1.0", {}, {"commit": "first"})
    before = {key: aws.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in keys(aws)}
    shelf.publish(model, "aligned", "1.0", {}, {"commit": "second"})
    assert {key: aws.head_object(Bucket=BUCKET, Key=key)["LastModified"] for key in keys(aws)} == before
    assert shelf.pull("aligned", "1.0", tmp_path / "here").provenance == {"commit": "first"}
    shelf.pull("aligned", "1.0", tmp_path / "here")


def test_a_version_is_never_overwritten(shelf, model, tmp_path):
    shelf.publish(model, "aligned", "1.0", {}, {})
    before = contents(model)
    (model / "config.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match="holds another model; a version is never overwritten"):
        shelf.publish(model, "aligned", "1.0", {}, {})
    shelf.pull("aligned", "1.0", tmp_path / "here")
    assert contents(tmp_path / "here") == before


def test_of_two_publishers_at_once_one_wins_whole(shelf, model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"other": 1}')
    ended: dict[str, str] = {}

    def publish(folder: Path) -> None:
        try:
            ended[folder.name] = shelf.publish(folder, "aligned", "1.0", {}, {})
        except UserError as error:
            ended[folder.name] = str(error)

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in (model, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [name for name, said in ended.items() if said.startswith("s3://") and "another model" not in said]
    assert len(won) == 1
    assert shelf.pull("aligned", "1.0", tmp_path / "here").files == contents(tmp_path / won[0])


def test_an_unfinished_publication_is_not_there_and_goes_on(shelf, model, aws, monkeypatch, tmp_path):
    class Killed(BaseException):
        """Ends the publication as a kill would, before the last file."""

    send = Shelf._upload

    def upload(self, source, key, entry, how, *, new):
        if source.name == "model.safetensors":
            raise Killed
        send(self, source, key, entry, how, new=new)

    monkeypatch.setattr(Shelf, "_upload", upload)
    with pytest.raises(Killed):
        shelf.publish(model, "aligned", "1.0", {}, {})
    assert shelf.versions() == []
    with pytest.raises(UserError, match="no published model"):
        shelf.pull("aligned", "1.0", tmp_path / "here")
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", aws.meta.endpoint_url)
    shelf.publish(model, "aligned", "1.0", {}, {})
    assert [one.version for one in shelf.versions()] == ["1.0"]


def test_a_large_file_goes_in_parts(shelf, model, aws, tmp_path):
    (model / "shards/model.safetensors").write_bytes(os.urandom(shelves.PART + 2**20))
    shelf.publish(model, "aligned", "1.0", {}, {})
    tag = aws.head_object(Bucket=BUCKET, Key="team/models/aligned/1.0/shards/model.safetensors")["ETag"]
    assert tag.strip('"').endswith("-2"), "the tag of an object of two parts"
    shelf.pull("aligned", "1.0", tmp_path / "here")
    assert contents(tmp_path / "here") == contents(model)


def test_killed_while_it_goes_up_it_is_not_there_and_goes_on(shelf, model, tmp_path, monkeypatch):
    monkeypatch.setenv(FAIL_AT, "push:2")
    if (process := os.fork()) == 0:
        shelf.publish(model, "aligned", "1.0", {}, {"commit": "abc"})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    monkeypatch.delenv(FAIL_AT)
    assert shelf.versions() == []
    shelf.publish(model, "aligned", "1.0", {}, {"commit": "abc"})
    assert contents(tmp_path / "model") == shelf.pull("aligned", "1.0", tmp_path / "here").files


def test_a_damaged_file_is_found_and_nothing_appears(shelf, model, aws, tmp_path):
    shelf.publish(model, "aligned", "1.0", {}, {})
    key = "team/models/aligned/1.0/shards/model.safetensors"
    body = bytearray(aws.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    body[7] ^= 1
    aws.put_object(Bucket=BUCKET, Key=key, Body=bytes(body))
    with pytest.raises(UserError, match="arrives damaged 5 times"):
        shelf.pull("aligned", "1.0", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_an_earlier_try_is_gone_on_from(shelf, model, tmp_path, monkeypatch):
    shelf.publish(model, "aligned", "1.0", {}, {})
    asked: list[str] = []
    bring = shelf._s3.download_file

    def download(bucket, key, target, **more):
        asked.append(Path(key).name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        bring(bucket, key, target, **more)

    monkeypatch.setattr(shelves, "AT_ONCE", 1)
    monkeypatch.setattr(shelf._s3, "download_file", download)
    with pytest.raises(KeyboardInterrupt):
        shelf.pull("aligned", "1.0", tmp_path / "here")
    shelf.pull("aligned", "1.0", tmp_path / "here")
    assert sorted(asked) == ["README.md", "config.json", "config.json", "model.safetensors"]


def test_a_folder_with_something_else_is_left_alone(shelf, model, tmp_path):
    shelf.publish(model, "aligned", "1.0", {}, {})
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        shelf.pull("aligned", "1.0", mine)
    assert (mine / "config.json").read_text() == "mine"


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../out", ""])
def test_a_manifest_cannot_write_outside_its_folder(path):
    with pytest.raises(UserError, match="not to be trusted"):
        inside(Path("here"), path)


def test_a_pickle_is_not_published(shelf, model, aws):
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="holds pickles"):
        shelf.publish(model, "aligned", "1.0", {}, {})
    assert keys(aws) == set()


@pytest.mark.parametrize("address", ["models", "http://a/b", "s3://", "s3://UPPER/x"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(UserError, match="s3://BUCKET/PREFIX"):
        Shelf(address)


@pytest.mark.parametrize(("name", "version"), [("../up", "1"), ("a", "1/2"), ("a", ""), (".hidden", "1")])
def test_a_name_cannot_leave_its_place(shelf, model, name, version):
    with pytest.raises(UserError, match="letters, digits"):
        shelf.publish(model, name, version, {}, {})


def test_a_bucket_that_is_not_there_is_named(aws, model):
    with pytest.raises(UserError, match="s3://nowhere-at-all/models/a/1: .*NoSuchBucket"):
        Shelf("s3://nowhere-at-all").publish(model, "a", "1", {}, {})


class TestAStorageThatFails:
    """A proxy before the server that spoils answers (tests.flows.faulty)."""

    @pytest.mark.parametrize("fault", FAULTS)
    def test_it_is_asked_again_until_the_model_is_whole(self, fault, storage, aws, monkeypatch, model, tmp_path):
        with Faulty(storage, fault) as faulty:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.address)
            shelf = Shelf(f"s3://{BUCKET}")
            shelf.publish(model, "aligned", "1.0", {}, {})
            shelf.pull("aligned", "1.0", tmp_path / "here")
        assert contents(tmp_path / "here") == contents(model)
        assert faulty.spoiled

    @pytest.mark.parametrize("fault", ["500", "503", "truncated"])
    def test_one_that_fails_for_good_is_named_and_loses_nothing(self, fault, storage, aws, monkeypatch, model, tmp_path):
        Shelf(f"s3://{BUCKET}").publish(model, "aligned", "1.0", {}, {})
        monkeypatch.setattr(shelves, "SETTINGS", shelves.SETTINGS.merge(Config(retries={"mode": "standard", "max_attempts": 2})))
        with Faulty(storage, fault, for_good=True, where="shards") as faulty:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.address)
            with pytest.raises(UserError, match="(the same command goes on|arrives damaged)"):
                Shelf(f"s3://{BUCKET}").pull("aligned", "1.0", tmp_path / "here")
        assert not (tmp_path / "here").exists()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
        Shelf(f"s3://{BUCKET}").pull("aligned", "1.0", tmp_path / "here")
        assert contents(tmp_path / "here") == contents(model)

    def test_what_was_damaged_on_its_way_up_does_not_come_down(self, storage, aws, monkeypatch, model, tmp_path):
        """A storage that checks sums, as S3 does, refuses it at once; this one does not."""
        with Faulty(storage, "garbled", where="shards") as faulty:
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.address)
            Shelf(f"s3://{BUCKET}").publish(model, "aligned", "1.0", {}, {})
        assert faulty.spoiled
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", storage)
        with pytest.raises(UserError, match="checksum"):
            Shelf(f"s3://{BUCKET}").pull("aligned", "1.0", tmp_path / "here")
        assert not (tmp_path / "here").exists()


def test_provenance_is_the_stage_that_made_it_and_its_scores(tmp_path):
    (tmp_path / "data/models/sft/0").mkdir(parents=True)
    (tmp_path / "data/scores").mkdir()
    (tmp_path / "data/scores/sft.json").write_text(json.dumps({"loss": 1.5}))
    (tmp_path / "dvc.lock").write_text(
        "stages:\n  sft:\n    cmd: python -m tasks.train.sft\n    outs:\n"
        "    - {path: data/models/sft, md5: abc}\n    - {path: data/scores/sft.json, md5: def}\n"
    )
    stage, facts = provenance(tmp_path, tmp_path / "data/models/sft/0")
    assert stage == "sft"
    assert facts["lock"]["cmd"] == "python -m tasks.train.sft"
    assert facts["versions"]["python"]
    assert scores_of(tmp_path, stage) == {"sft.json": {"loss": 1.5}}
    assert provenance(tmp_path, tmp_path / "data")[0] is None
