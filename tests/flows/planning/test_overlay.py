"""Profiles and `--set`: what is in effect, how it reaches params.yaml, and that the user's own file always comes back."""

import multiprocessing
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from flows.planning.overlay import (
    BEFORE,
    EDITED,
    RUN_LEASE,
    applied,
    changes,
    effective_params,
    origin,
    parse_set,
    profile_names,
    recover,
    render,
    use,
)
from tasks.runtime.lease import Lease
from tasks.runtime.params import UserError, read_yaml

PARAMS = """\
# What everything stands on.
sources: []             # none for the small world

base:
  model: data/models/pretrain   # a folder
  path: null

sft: {learning_rate: 1.0e-3, epochs: 2, seeds: [0, 1]}   # in a row
"""
SMALL = """\
# Small, for a first look.
sources: [base]
sft: {epochs: 1}
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "flows/profiles").mkdir(parents=True)
    (tmp_path / "flows/profiles/small.yaml").write_text(SMALL)
    return tmp_path


class TestEffective:
    def test_set_goes_over_profile_and_profile_over_params(self, root):
        params = effective_params(root, "small", ("sft.learning_rate=3e-4", "base.path=models/mine"))
        assert params == {
            "sources": ["base"],
            "base": {"model": "data/models/pretrain", "path": "models/mine"},
            "sft": {"learning_rate": 3e-4, "epochs": 1, "seeds": [0, 1]},
        }

    @pytest.mark.parametrize(
        ("text", "value"),
        [("a.b=1", 1), ("a.b=1.0", 1.0), ("a.b=true", True), ("a.b=", None), ("a.b=[1, x]", [1, "x"]), ("a.b=c=d", "c=d")],
    )
    def test_values_are_read_as_yaml(self, text, value):
        assert parse_set(text) == {"a": {"b": value}}

    @pytest.mark.parametrize(
        ("item", "said"),
        [
            ("sft.epochs", "wants section.key=value"),
            (".epochs=1", "wants section.key=value"),
            ("sft.epochs=[1", "not valid YAML; quote it"),
            ("stf.epochs=1", "no section 'stf'; did you mean 'sft'"),
            ("sft=1", "'sft' is a section; set one of its keys: sft.learning_rate, sft.epochs, sft.seeds"),
        ],
    )
    def test_a_wrong_set_is_refused_with_a_remedy(self, root, item, said):
        with pytest.raises(UserError, match=said.replace("(", r"\(")):
            effective_params(root, None, (item,))

    def test_an_unknown_profile_is_refused_naming_the_known(self, root):
        with pytest.raises(UserError, match="no profile 'smal'; did you mean 'small'.*there are small"):
            effective_params(root, "smal")

    def test_a_profile_with_an_unknown_section_is_refused_naming_its_file(self, root):
        (root / "flows/profiles/odd.yaml").write_text("stf: {epochs: 1}\n")
        with pytest.raises(UserError, match=r"flows/profiles/odd\.yaml: params\.yaml has no section 'stf'"):
            effective_params(root, "odd")

    def test_messages_can_name_where_a_section_comes_from(self, root):
        assert origin(root, "base", "small") == "params.yaml"
        assert origin(root, "sft", "small", ("sft.epochs=3",)) == "params.yaml + flows/profiles/small.yaml + --set sft.epochs=3"

    def test_profiles_are_listed_with_their_first_line(self, root):
        (root / "flows/profiles/bare.yaml").write_text("sft: {epochs: 3}\n")
        assert profile_names(root) == {"bare": "", "small": "Small, for a first look."}

    def test_the_changes_of_a_profile_are_told(self, root):
        assert changes(root, "small") == [("sources", "[]", "['base']"), ("sft.epochs", "2", "1")]


class TestRender:
    def test_only_the_changed_values_change_and_comments_stay(self, root):
        text = render(root, effective_params(root, "small"))
        assert text == PARAMS.replace("sources: []    ", "sources: [base]").replace("epochs: 2", "epochs: 1")

    def test_equal_values_leave_the_text_as_it_is(self, root):
        assert render(root, effective_params(root, None, ("sft.epochs=2",))) == PARAMS

    def test_equal_for_python_is_not_equal_for_a_stage(self, root):
        assert "epochs: 2.0" in render(root, effective_params(root, None, ("sft.epochs=2.0",)))

    LEAF = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    )

    @given(
        learning_rate=LEAF,
        seeds=st.lists(LEAF, max_size=3),
        nested=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), LEAF, max_size=3),
    )
    def test_what_is_written_reads_back_as_what_was_meant(self, tmp_path_factory, learning_rate, seeds, nested):
        place = tmp_path_factory.mktemp("render")
        (place / "params.yaml").write_text(PARAMS)
        params = effective_params(place, None)
        params["sft"] = {**params["sft"], "learning_rate": learning_rate, "seeds": seeds, "nested": nested}
        text = render(place, params)
        assert repr(YAML(typ="safe", pure=True).load(text)) == repr(params)
        assert "# What everything stands on." in text


class TestApplied:
    def test_params_hold_the_overlay_for_the_block_and_come_back_byte_for_byte(self, root):
        params = effective_params(root, "small")
        with applied(root, params):
            assert read_yaml(root / "params.yaml") == params
            assert effective_params(root, None)["sft"]["epochs"] == 2, "another command still sees the user's own values"
        assert (root / "params.yaml").read_text() == PARAMS
        assert not list((root / ".temper").glob("params.*"))

    def test_they_come_back_when_the_block_fails(self, root):
        with pytest.raises(KeyboardInterrupt), applied(root, effective_params(root, "small")):
            raise KeyboardInterrupt
        assert (root / "params.yaml").read_text() == PARAMS

    def test_nothing_is_written_when_nothing_differs(self, root):
        before = (root / "params.yaml").stat()
        with applied(root, effective_params(root, None, ("sft.epochs=2",))):
            assert (root / "params.yaml").stat() == before
            assert not (root / ".temper").exists()

    def test_what_the_user_writes_meanwhile_is_kept(self, root):
        with applied(root, effective_params(root, "small")):
            (root / "params.yaml").write_text("sft: {epochs: 9}\n")
        assert (root / "params.yaml").read_text() == PARAMS
        assert (root / EDITED).read_text() == "sft: {epochs: 9}\n"

    def test_a_killed_run_is_mended_by_the_next_command(self, root):
        child = multiprocessing.get_context("fork").Process(target=_apply_and_die, args=(root,))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert read_yaml(root / "params.yaml")["sft"]["epochs"] == 1
        assert "your own values are back" in recover(root)
        assert (root / "params.yaml").read_text() == PARAMS
        assert not (root / BEFORE).exists()
        assert recover(root) is None

    def test_a_run_in_progress_is_left_alone(self, root):
        with Lease(root / RUN_LEASE, "this checkout"), applied(root, effective_params(root, "small")):
            assert recover(root) is None
            assert read_yaml(root / "params.yaml")["sft"]["epochs"] == 1


def _apply_and_die(root):
    with Lease(root / RUN_LEASE, "this checkout"), applied(root, effective_params(root, "small")):
        os.kill(os.getpid(), signal.SIGKILL)


def test_using_a_profile_writes_it_for_good(root):
    assert use(root, "small")
    assert read_yaml(root / "params.yaml") == effective_params(root, "small")
    assert not use(root, "small")
