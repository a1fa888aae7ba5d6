"""Params: wrong keys and values are refused before anything is loaded, naming file, section and key."""

from typing import ClassVar

import pytest
from pydantic import Field

from tasks.runtime.params import StageParams, UserError, check_section, load_params, params_of, read_yaml


class Cook(StageParams):
    section: ClassVar[str] = "cook"
    heat: float = Field(0.5, ge=0, le=1)
    """Share of full heat."""
    minutes: int = Field(10, ge=1)
    """Minutes on the stove."""


def test_values_of_the_section_are_read(tmp_path):
    (tmp_path / "params.yaml").write_text("cook: {heat: 0.25}\nother: {}\n")
    assert load_params(Cook, tmp_path / "params.yaml") == Cook(heat=0.25, minutes=10)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"heet": 1.0}, "cook.heet: unknown key; known are heat, minutes"),
        ({"heat": 2.0}, "cook.heat: Input should be less than or equal to 1, got 2.0"),
        ({"minutes": "ten"}, "cook.minutes: Input should be a valid integer, got 'ten'"),
        ({"minutes": 1.5}, "cook.minutes: Input should be a valid integer"),
        ([1], "section 'cook' must be a mapping, not list"),
        (None, "section 'cook' is missing"),
    ],
)
def test_a_wrong_value_names_file_section_and_key(body, said):
    with pytest.raises(UserError, match="params.yaml: ") as caught:
        check_section(Cook, {"cook": body}, "params.yaml")
    assert said in str(caught.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(UserError) as caught:
        check_section(Cook, {"cook": {"heat": 2.0, "minutes": 0}}, "params.yaml")
    assert "cook.heat" in str(caught.value)
    assert "cook.minutes" in str(caught.value)


def test_params_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Cook().heat = 1.0


@pytest.mark.parametrize(("text", "said"), [("a: [1", "not valid YAML"), ("- 1", "must hold a mapping")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_yaml(tmp_path / "p.yaml")


def test_yaml_cannot_build_objects(tmp_path):
    (tmp_path / "p.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(UserError):
        read_yaml(tmp_path / "p.yaml")


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="root of a Temper checkout"):
        read_yaml(tmp_path / "params.yaml")


def test_a_module_without_params_is_no_stage():
    with pytest.raises(UserError, match="not a stage module"):
        params_of("tasks.runtime.lease")
