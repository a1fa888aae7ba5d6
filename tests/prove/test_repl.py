"""The REPL's protocol on recorded conversations, a Lean that misbehaves in every way, and what is made of its answers."""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.prove.checker import Candidate, CheckerSettings
from tasks.prove.lean_repl import LeanRepl, Remote
from tasks.prove.process import Lost, Process
from tasks.prove.repl import Looked, ReplChecker, error_reason, judge, messages_of, prelude
from tasks.runtime.params import UserError

FINE = Candidate("t", "theorem t : 1 = 1 :=", "theorem t : 1 = 1 := rfl")
FAKE = """
import json, sys, time
def requests():
    lines = []
    for line in sys.stdin:
        if line.strip():
            lines.append(line)
        elif lines:
            yield json.loads("".join(lines))
            lines = []
def say(value):
    print(json.dumps(value, indent=1), end="\\n\\n", flush=True)
count = 0
for request in requests():
    text = request.get("cmd", "")
    if "versionString" in text:
        say({"messages": [{"severity": "info", "pos": {"line": 1, "column": 0}, "data": '"4.9.0"'}], "env": 0})
    elif text.startswith("#print axioms"):
        say({"messages": [{"severity": "info", "pos": {"line": 1, "column": 0}, "data": AXIOMS}], "env": 0})
    elif "HANG" in text:
        time.sleep(60)
    elif "DIE" in text:
        sys.exit("out of memory")
    elif "GARBAGE" in text:
        print("Segmentation fault (core dumped)", end="\\n\\n", flush=True)
    elif "GROW" in text:
        hoard = [bytearray(1 << 20) for _ in range(300)]
        time.sleep(60)
    elif "WRONG" in text:
        say({"messages": [{"severity": "error", "pos": {"line": 1, "column": 5}, "data": "unsolved goals"}], "env": 2})
    elif "HOLE" in text:
        say({"sorries": [{"pos": {"line": 1, "column": 9}, "goal": "False"}], "env": 2})
    else:
        say({"env": 1})
"""


def repl(tmp_path: Path, axioms: str = "'t' does not depend on any axioms", **settings) -> ReplChecker:
    """A checker over a REPL written for these tests, in a process of its own."""
    program = tmp_path / "repl.py"
    program.write_text(f"AXIOMS = {axioms!r}\n{FAKE}")
    chosen = CheckerSettings(backend="lean-repl", command=(sys.executable, str(program)), start_seconds=60, **settings)
    return ReplChecker(LeanRepl(chosen), chosen)


def saying(word: str) -> Candidate:
    """A candidate whose proof makes that REPL do something."""
    return Candidate("t", FINE.statement, f"{FINE.statement} {word}")


def test_a_proof_without_complaints_is_verified(tmp_path):
    with repl(tmp_path, library_commit="abc") as checker:
        [verdict] = checker.check([FINE])
    assert verdict.verified
    assert (verdict.backend, verdict.toolchain, verdict.library_commit) == ("lean-repl", "4.9.0", "abc")
    assert verdict.seconds > 0


def test_what_goes_wrong_with_one_candidate_stays_with_it(tmp_path):
    words = ["HANG", "rfl", "DIE", "rfl", "GARBAGE", "rfl", "WRONG", "rfl", "HOLE", "rfl"]
    with repl(tmp_path, seconds=2) as checker:
        found = checker.check([saying(word) for word in words])
        assert checker.starts == 1 + 2 + 2 + 2, "each is tried again in a fresh Lean before it is given up"
    assert [verdict.reason for verdict in found[::2]] == ["timeout", "crashed", "crashed", "error", "sorry"]
    assert all(verdict.verified for verdict in found[1::2])
    assert "no answer within 2 s" in found[0].detail
    assert "out of memory" in found[2].detail
    assert "Segmentation fault" in found[4].detail
    assert found[6].position == (1, 5)
    assert found[8].position == (1, 9)


def test_memory_is_bounded(tmp_path):
    with repl(tmp_path, memory_gib=0.2, seconds=50) as checker:
        grown, fine = checker.check([saying("GROW"), FINE])
    assert grown.reason == "crashed"
    assert "over the 0.2 allowed" in grown.detail
    assert fine.verified


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("'t' depends on axioms: [propext, Classical.choice, Quot.sound]", "verified"),
        ("'t' depends on axioms: [propext,\n u]", "axiom"),
        ("'t' depends on axioms: [Lean.ofReduceBool]", "axiom"),
        ("'t' depends on axioms: [sorryAx]", "sorry"),
        ("unknown constant 't'", "error"),
    ],
)
def test_a_native_lean_says_what_a_proof_rests_on(tmp_path, printed, reason):
    with repl(tmp_path, axioms=printed) as checker:
        [verdict] = checker.check([FINE])
    assert verdict.reason == reason


def test_a_repl_that_is_not_there_is_told(tmp_path):
    settings = CheckerSettings(backend="lean-repl", command=(str(tmp_path / "no-such-repl"),))
    with ReplChecker(LeanRepl(settings), settings) as checker, pytest.raises(UserError, match="cannot run .*no-such-repl"):
        checker.check([FINE])
    with pytest.raises(UserError, match="give `command`"):
        LeanRepl(CheckerSettings(backend="lean-repl"))


def test_a_repl_of_another_version_is_refused(tmp_path):
    with repl(tmp_path, toolchain="4.20.0") as checker, pytest.raises(UserError, match=r"is Lean 4\.9\.0, not 4\.20\.0"):
        checker.check([FINE])


def test_a_program_that_is_no_repl_is_told(tmp_path):
    settings = CheckerSettings(backend="lean-repl", command=(sys.executable, "-c", "print('hello')"), start_seconds=30)
    with ReplChecker(LeanRepl(settings), settings) as checker, pytest.raises(UserError, match="does not answer"):
        checker.check([FINE])


def test_a_server_over_http_gives_the_same_answers():
    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["cmd"]
            said = '"4.9.0"' if "versionString" in text else "'t' does not depend on any axioms"
            info = [{"severity": "info", "pos": {"line": 1, "column": 0}, "data": said}]
            body = b"no json" if "GARBAGE" in text else json.dumps({"env": 1, "messages": info if "#" in text else []}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    settings = CheckerSettings(backend="lean-repl", url=url, start_seconds=20)
    with ReplChecker(LeanRepl(settings), settings) as checker:
        fine, garbage = checker.check([FINE, saying("GARBAGE")])
    server.shutdown()
    assert fine.verified
    assert garbage.reason == "crashed"
    with pytest.raises(Lost, match="127.0.0.1"):
        Remote("http://127.0.0.1:9").ask({}, 5)


def test_the_child_is_gone_with_its_checker(tmp_path):
    checker = repl(tmp_path)
    checker.check([FINE])
    talk = checker._talk
    assert isinstance(talk, Process)
    checker.stop()
    assert talk._child.poll() is not None


def test_the_child_may_write_no_file(tmp_path):
    write = f"import os; os.write(os.open({str(tmp_path / 'out')!r}, os.O_CREAT | os.O_WRONLY), b'x')"
    child = Process([sys.executable, "-c", write], 1.0)
    with pytest.raises(Lost, match="SIGXFSZ|File too large"):
        child.read(30)


def test_unknown_names_are_errors_and_the_bound_is_the_settings_own():
    text = prelude(CheckerSettings(heartbeats=123, header="import Mathlib\nopen Real"))
    assert text.startswith("import Mathlib\n")
    assert text.index("autoImplicit false") < text.index("open Real") < text.index("maxHeartbeats 123")


def test_errors_outrank_holes_and_holes_outrank_axioms():
    error = {"severity": "error", "data": "unsolved goals", "pos": {"line": 2, "column": 1}}
    hole = {"severity": "warning", "data": "declaration uses 'sorry'", "pos": None}
    fine = Looked(True, True, frozenset({"propext"}))

    def reason(messages, looked=fine):
        found = judge(messages, looked)
        return found and found.reason

    assert reason([]) is None
    assert reason([hole, error]) == "error"
    assert reason([hole]) == "sorry"
    assert reason([], Looked(True, True, frozenset({"sorryAx", "u"}))) == "sorry"
    assert reason([], Looked(True, True, frozenset({"u"}))) == "axiom"
    assert reason([], Looked(True, False, frozenset())) == "statement_changed"
    assert reason([], Looked(False, True, frozenset())) == "error"
    assert error_reason("(deterministic) timeout at `whnf`, maximum number of heartbeats (5000) has been reached") == "timeout"


def conversations(real_data: Path) -> list[dict]:
    """The recorded conversations."""
    lines = (real_data / "data/lean/repl_transcripts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def parts(text: str) -> list[str]:
    """What stands between blank lines."""
    return [part for part in re.split(r"\n[ \t]*\n", text) if part.strip()]


REPLAY = """
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    for answer in json.loads(line):
        while sys.stdin.readline().strip():
            pass
        print(answer, end="\\n\\n", flush=True)
"""


@pytest.mark.real
def test_recorded_answers_are_read_as_they_were_given(real_data, tmp_path):
    """All 71 conversations, byte for byte as the REPL wrote them, through a real pipe."""
    rows = conversations(real_data)
    assert len(rows) == 71
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(parts(row["expected"])) + "\n" for row in rows))
    child = Process([sys.executable, "-c", REPLAY, str(answers)], 1.0)
    asked = refused = 0
    for row in rows:
        for answer in parts(row["expected"]):
            found = child.ask({"cmd": "as recorded"}, 30)
            assert found == json.loads(answer)
            asked += 1
            if "message" in found:
                refused += 1
                with pytest.raises(Lost, match="refused"):
                    messages_of(found)
            else:
                assert all({"severity", "data", "pos"} <= message.keys() for message in messages_of(found))
    child.close()
    assert asked == sum(len(parts(row["input"])) for row in rows)
    assert refused, "among them are requests that the REPL refused"


@pytest.mark.real
def test_our_own_repl_says_what_the_recorded_one_said(real_data, lean):
    """Core Lean, command mode: severity and place of every message are as recorded; texts differ between Lean versions."""
    talk = lean._lean.start()
    same, other = [], []
    for row in conversations(real_data):
        pairs = command_mode(row)
        if not pairs:
            continue
        envs: dict[int, int] = {}
        for request, recorded in pairs:
            ours = {"cmd": request["cmd"]} | ({"env": envs[request["env"]]} if "env" in request else {})
            answer = talk.ask(ours, 300)
            envs[recorded["env"]] = answer["env"]
            agree = placed(answer) == placed(recorded)
            (same if agree else other).append((row["name"], placed(answer), placed(recorded)))
        for env in set(envs.values()):
            talk.ask({"forget": env}, 60)
    talk.close()
    assert {name for name, *_ in other} <= OTHER_VERSION, other
    assert len(same) >= 50


OTHER_VERSION = {"self_proof_rw", "unfinished_tactic_block"}
"""Conversations about an option that the recorded Lean does not have, and about where an error at the end of the text is put."""


def command_mode(row: dict) -> list[tuple[dict, dict]]:
    """The requests of a conversation in command mode with their answers, if it is one of core Lean; else nothing."""
    try:
        requests = [json.loads(part) for part in parts(row["input"])]
    except ValueError:
        return []
    answers = [json.loads(part) for part in parts(row["expected"])]
    pairs = [(request, answer) for request, answer in zip(requests, answers, strict=True) if set(request) <= {"cmd", "env"}]
    imports = any("import" in request["cmd"] for request, _ in pairs)
    known = {answer.get("env") for _, answer in pairs}
    usable = all(request.get("env", next(iter(known), None)) in known and "env" in answer for request, answer in pairs)
    return pairs if usable and not imports else []


def placed(answer: dict) -> list[tuple]:
    """Severity and place of the messages of an answer."""
    return sorted((m["severity"], m["pos"]["line"], m["pos"]["column"]) for m in answer.get("messages", []))
