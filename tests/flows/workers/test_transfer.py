"""What goes through the DVC remote: tried again while the storage fails, hashed when it arrives, told when it cannot be."""

import boto3
import pytest

from flows.host import TOOLS, kept
from flows.workers import remote
from flows.workers.remote import TransferError, transfer, use_remote
from tests.flows.checkout import command, make_checkout
from tests.flows.faulty import FAULTS, Faulty
from tests.flows.site import KEYS


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A worker's warm process."""
    with kept(tmp_path_factory.mktemp("tools"), "tools", TOOLS) as place:
        yield place


@pytest.fixture
def worker(storage, tools, tmp_path, monkeypatch):
    """A worker's folder with one out of two files, and its remote; returns the folder and a client beneath DVC."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": storage, remote.TOOLS: tools}.items():
        monkeypatch.setenv(name, value)
    s3 = boto3.client("s3", endpoint_url=storage)
    bucket = f"data-{tmp_path.name.replace('_', '-').lower()}"[:60].strip("-")
    s3.create_bucket(Bucket=bucket)
    root = make_checkout(tmp_path / "worker/.temper/at/folder", "  none:\n    cmd: 'true'\n")
    use_remote(root, f"s3://{bucket}/temper")
    (root / "model").mkdir()
    for name in ("a", "b"):
        (root / "model" / name).write_bytes(name.encode() * 4096)
    command(root, "dvc", "add", "-q", "model")
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    return root, s3, bucket


def forget(root):
    """Remove the out and the cache, as on a machine that has never had them."""
    for place in ("model", str(root.parents[2] / ".dvc/cache")):
        command(root, "rm", "-r", place)


def whole(root) -> bool:
    return {path.name: path.read_bytes() for path in (root / "model").iterdir()} == {"a": b"a" * 4096, "b": b"b" * 4096}


@pytest.mark.slow
class TestAStorageThatFails:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_it_is_asked_again_until_all_is_there(self, fault, worker, storage, monkeypatch):
        root, _, _ = worker
        with Faulty(storage, fault) as faulty:
            monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.address)
            transfer(root, "push", "model.dvc")
            forget(root)
            transfer(root, "pull", "model.dvc")
        assert faulty.spoiled
        assert whole(root)

    def test_for_good_it_is_told_and_nothing_is_lost(self, worker, storage, monkeypatch):
        root, _, _ = worker
        monkeypatch.setattr(remote, "TRIES", 1)
        with Faulty(storage, "503", for_good=True) as faulty:
            monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.address)
            with pytest.raises(TransferError, match=r"dvc push model.dvc: .*; what was made is kept"):
                transfer(root, "push", "model.dvc")
        assert whole(root)
        monkeypatch.setenv("AWS_ENDPOINT_URL", storage)
        transfer(root, "push", "model.dvc")
        forget(root)
        transfer(root, "pull", "model.dvc")
        assert whole(root)

    def test_an_object_that_was_damaged_there_is_refused(self, worker, monkeypatch):
        root, s3, bucket = worker
        monkeypatch.setattr(remote, "TRIES", 1)
        transfer(root, "push", "model.dvc")
        forget(root)
        for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]:
            if entry["Size"] == 4096:
                body = bytearray(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())
                body[7] ^= 1
                s3.put_object(Bucket=bucket, Key=entry["Key"], Body=bytes(body))
        with pytest.raises(TransferError, match=r"dvc pull model.dvc"):
            transfer(root, "pull", "model.dvc")
        assert not list(root.glob("model/*"))
