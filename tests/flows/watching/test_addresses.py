"""Where the page of a run leads: to the report and to the outs in the DVC remote, and never to a password."""

import pytest
from prefect.settings import temporary_settings

from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.server import HOME
from flows.watching import addresses
from flows.watching.addresses import Remote, hashes, of_run, remote_of, served_at
from tests.flows.checkout import command, make_checkout

MD5 = "0123456789abcdef0123456789abcdef"
AT = f"files/md5/01/{MD5[2:]}"


@pytest.mark.parametrize(
    ("remote", "link"),
    [
        (Remote("s3://store/temper"), f"[s3://store/temper/{AT}]({addresses.BUCKETS}/store?prefix=temper/{AT})"),
        (Remote("s3://store/temper", "http://minio:9000"), f"[s3://store/temper/{AT}](http://minio:9000/store/temper/{AT})"),
        (Remote("https://me:word@store.example/t"), f"[https://store.example/t/{AT}](https://store.example/t/{AT})"),
        (Remote("ssh://me@store/srv/t"), f"`ssh://store/srv/t/{AT}`"),
        (Remote("/srv/store"), f"`/srv/store/{AT}`"),
    ],
)
def test_an_out_is_linked_where_a_browser_can_open_it_and_else_named(remote, link):
    assert remote.link(MD5) == link


def test_a_checkouts_remote_and_the_hashes_of_its_outs_are_those_of_dvc(tmp_path):
    root = make_checkout(tmp_path / "c", "  a: {cmd: echo 1 > a.txt, outs: [a.txt]}\n", "none: 0")
    assert remote_of(root) is None
    command(root, "dvc", "remote", "add", "-d", "store", "s3://store/temper")
    command(root, "dvc", "remote", "modify", "store", "endpointurl", "http://minio:9000")
    assert remote_of(root) == Remote("s3://store/temper", "http://minio:9000")
    stage = load_graph(root, effective_params(root, None)).stages["a"]
    assert hashes(root, stage) == {}
    command(root, "dvc", "repro")
    assert hashes(root, stage) == {"a.txt": "b026324c6904b2a9cb4b88d6d61c81d1"}


def test_a_run_leads_to_its_report_where_it_is_served_or_lies(tmp_path):
    assert of_run(tmp_path, [], "http://here:4200", None).startswith("There is no report yet: `data/report/index.html`.")
    (tmp_path / "data/report").mkdir(parents=True)
    (tmp_path / "data/report/index.html").touch()
    assert "[Open the report](http://here:4200/data/report/index.html)" in of_run(tmp_path, [], "http://here:4200", None)
    assert f"The report is `{tmp_path}/data/report/index.html`." in of_run(tmp_path, [], None, None)
    assert "DVC remote: `https://store.example/t`." in of_run(tmp_path, [], None, Remote("https://me:word@store.example/t"))


def test_reports_are_served_by_the_checkouts_own_server_alone(tmp_path):
    assert served_at(tmp_path) is None
    (tmp_path / HOME).mkdir(parents=True)
    (tmp_path / HOME / "address").write_text("http://127.0.0.1:4300/api\n")
    with temporary_settings({"api.url": "http://127.0.0.1:4300/api"}):
        assert served_at(tmp_path) == "http://127.0.0.1:4300"
    with temporary_settings({"api.url": "http://elsewhere:4200/api"}):
        assert served_at(tmp_path) is None
