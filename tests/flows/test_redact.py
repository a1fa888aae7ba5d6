"""What a program may print of the secrets it was given, in any of their forms, is blotted out, and nothing else is."""

import base64
import json
import secrets
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.planning.graph import load_graph
from flows.planning.overlay import effective_params
from flows.planning.sections import check_sections
from flows.redact import MASK, redacted
from flows.workers.pool import Pools
from tasks.runtime.params import UserError
from tests.flows.checkout import make_checkout


@pytest.mark.parametrize(
    "name",
    ["TEMPER_ENDPOINT_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "PGPASSWORD_PASSWORD", "SOME_API_KEY_2"],
)
def test_a_secret_is_known_by_the_name_of_its_variable(name):
    secret = secrets.token_urlsafe(24)
    assert redacted(f"before {secret} after", {name: secret}) == f"before {MASK} after"


@pytest.mark.parametrize("name", ["SSH_AUTH_SOCK", "TOKENIZERS_PARALLELISM", "KEYBOARD", "AWS_WEB_IDENTITY_TOKEN_FILE", "MONKEY"])
def test_what_only_sounds_like_one_is_left_alone(name):
    assert redacted("a value of some length", {name: "a value of some length"}) == "a value of some length"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=30))
def test_every_form_in_which_it_is_printed_is_blotted_out(secret):
    environ = {"APP_SECRET": secret}
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
        assert secret not in redacted(f"<{form}>", environ)
        assert redacted(f"<{form}>", environ) == f"<{MASK}>"


def test_user_and_password_are_blotted_out_together_apart_and_as_a_header():
    password = secrets.token_hex(12)
    environ = {"PREFECT_API_AUTH_STRING": f"admin:{password}"}
    header = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
    assert redacted(f"admin:{password} {password} {header}", environ) == f"{MASK} {MASK} Basic {MASK}"


def test_a_password_in_an_address_is_one_wherever_the_address_stands():
    password = secrets.token_hex(12)
    environ = {"PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://prefect:{password}@database:5432/prefect"}
    assert password not in redacted(f"cannot connect as prefect with {password}", environ)
    said = f"https://somebody:{password}@host/v1 refuses"
    assert redacted(said, {}) == f"https://{MASK}@host/v1 refuses"
    assert redacted("https://host/a:b@c s3://bucket/key", {}) == "https://host/a:b@c s3://bucket/key"


def test_a_secret_of_several_lines_is_blotted_out_line_by_line():
    lines = [secrets.token_hex(16) for _ in range(3)]
    assert redacted(lines[1], {"SIGNING_KEY": "\n".join(lines)}) == MASK


def test_a_short_one_would_blot_out_ordinary_words():
    assert redacted("step one of two", {"A_KEY": "one"}) == "step one of two"


@pytest.mark.parametrize("how", ["environment", "address"])
def test_a_secret_among_the_params_is_refused_without_saying_it(build, tmp_path, monkeypatch, how):
    secret = secrets.token_hex(16)
    monkeypatch.setenv("TEMPER_ENDPOINT_KEY", secret if how == "environment" else "")
    value = secret if how == "environment" else f"https://user:{secret}@host/v1"
    root = build(tmp_path / "checkout")
    params = effective_params(root, None, [f"count.endpoint={value}"])
    graph = load_graph(root, params)
    with pytest.raises(UserError, match=r"params.yaml: count.endpoint: holds a secret; .*by the environment") as refusal:
        check_sections(graph, root, params, graph.stages)
    assert secret not in str(refusal.value)


def test_a_remote_with_a_password_in_its_address_is_not_sent_to_the_workers(tmp_path):
    root, password = make_checkout(tmp_path / "c"), secrets.token_hex(12)
    (root / ".dvc/config.local").write_text(f"[core]\nremote = s\n['remote \"s\"']\nurl = https://me:{password}@host/data\n")
    with pytest.raises(UserError, match="the DVC remote s has a secret in its address") as refusal:
        Pools(root, load_graph(root, {"work": {}}), {})
    assert password not in str(refusal.value)
