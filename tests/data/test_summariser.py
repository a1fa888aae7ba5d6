"""A rationale is asked for until it comes, paid for once, and its failure loses nothing that is done."""

import pytest

from tasks.data.summariser import KEY, Case, Endpoint, Store, from_clusters, from_model, summarise_all
from tasks.runtime.params import UserError
from tasks.runtime.progress import Progress
from tests.data.conftest import reply
from tests.tiny import llama, save

CASE = Case("what ?", "red", [("blue", 0.3), ("green", 0.05)])


GOOD = reply("Well.\nReason: I may confuse it\nwith blue.")


def endpoint(server, **changed):
    settings = {"timeout": 5.0, "retries": 2, "sleep": server.waits.append, **changed}
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "judge", **settings)


def test_success_is_what_follows_reason(server, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    server.script = [GOOD]
    assert endpoint(server)(CASE) == "I may confuse it with blue."
    ((path, key, body),) = server.seen
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "judge")
    assert "blue (30%); green (5%)" in body["messages"][0]["content"]
    assert server.waits == []


MALFORMED = [(200, "no json"), (200, "{}"), (200, '{"choices": []}'), reply(None), reply("Reason: "), (200, "[]")]


@pytest.mark.parametrize("fault", [(429, ""), (500, "x"), (503, ""), *MALFORMED])
def test_a_fault_that_may_pass_is_tried_again_with_growing_pauses(server, fault):
    server.script = [fault, fault, GOOD]
    assert endpoint(server)(CASE) == "I may confuse it with blue."
    assert len(server.seen) == 3
    assert server.waits == [1, 2]


def test_a_time_out_is_tried_again(server):
    server.script = [0.3, GOOD]
    assert endpoint(server, timeout=0.1)(CASE) == "I may confuse it with blue."
    assert server.waits == [1]


@pytest.mark.parametrize(("fault", "said"), [((429, ""), "429"), ((200, "no json"), "no chat completion"), (0.2, "timed out")])
def test_one_that_does_not_pass_ends_it_with_its_reason(server, fault, said):
    server.script = [fault]
    with pytest.raises(UserError, match=rf"{said}.* 3 times; run again .* what is done is kept"):
        endpoint(server, timeout=0.1 if isinstance(fault, float) else 5.0)(CASE)


def test_a_refusal_is_not_tried_again(server):
    server.script = [(401, "")]
    with pytest.raises(UserError, match="refuses the request.*401"):
        endpoint(server)(CASE)
    assert len(server.seen) == 1


def test_nobody_there_is_a_fault_too(server):
    away = Endpoint("http://127.0.0.1:9/v1", "judge", retries=0)
    with pytest.raises(UserError, match="refused"):
        away(CASE)


def test_after_a_failure_only_the_rest_is_asked_for(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [Case(f"q{n} ?", "red", []) for n in range(4)]
    server.script = [GOOD, GOOD, (500, "")]
    with pytest.raises(UserError, match="500"):
        summarise_all(cases, endpoint(server), Store(tmp_path / "store.jsonl"), "judge", 1, Progress("s", 4, "cases"))
    server.script, server.seen = [GOOD], []
    found = summarise_all(cases, endpoint(server), Store(tmp_path / "store.jsonl"), "judge", 3, Progress("s", 4, "cases"))
    assert found == ["I may confuse it with blue."] * 4
    assert len(server.seen) == 2


def test_a_line_that_a_kill_cut_short_is_asked_for_again(tmp_path):
    path = tmp_path / "store.jsonl"
    assert Store(path).through("judge", CASE, lambda case: "one") == "one"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "a", "te')
    store = Store(path)
    assert path.read_bytes() == whole
    assert store.through("judge", CASE, lambda case: "two") == "one"
    assert store.through("another", CASE, lambda case: "two") == "two"
    assert Store(path).through("another", CASE, lambda case: "three") == "two"


def test_the_stand_in_names_the_others_and_says_so_when_there_are_none():
    assert from_clusters(CASE) == "torn between red and blue and green"
    assert from_clusters(Case("what ?", "red", [])) == "sure of red"


def test_a_local_model_writes_one_too(tmp_path):
    text = from_model(save(llama(context=256), tmp_path / "model"), 5)(CASE)
    assert text
    assert "\n" not in text
