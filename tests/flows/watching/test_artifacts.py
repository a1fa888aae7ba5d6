"""What the page shows of a stage: scores with their change, plots as pictures, where the outs lie."""

import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from flows.planning.graph import Out, RunResult, Stage, StageResult
from flows.watching.artifacts import data_uri, draw, key, number, outs_table, score_rows, scores_of, summary_rows

PNG = b"\x89PNG\r\n\x1a\n"


def stage(*outs: Out) -> Stage:
    return Stage("work", "", None, None, (), outs, ())


class TestKeys:
    @given(st.text(min_size=1), st.sampled_from(["scores", "plot", "progress"]))
    def test_any_name_gives_a_key_that_prefect_takes(self, name, what):
        assert set(key(name, what)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert key(name, what).endswith(what)

    def test_keys_are_stable_and_readable(self):
        assert key("fetch@base", "scores") == "fetch-base-scores"


class TestScores:
    def test_nested_numbers_get_dotted_names_and_words_are_left_out(self, tmp_path):
        (tmp_path / "s.json").write_text(
            '{"loss": 0.5, "skills": {"recall": 1, "name": "x"}, "ok": true, "front": [1.5, {"a": 2}]}'
        )
        found = scores_of(tmp_path, stage(Out("s.json", "metric"), Out("other.json", "out")))
        assert found == {"loss": 0.5, "skills.recall": 1, "front.0": 1.5, "front.1.a": 2}

    @pytest.mark.parametrize("text", ["", "{", "[]", '"word"'])
    def test_a_damaged_or_missing_metric_has_no_scores(self, tmp_path, text):
        (tmp_path / "s.json").write_text(text)
        assert scores_of(tmp_path, stage(Out("s.json", "metric"), Out("missing.json", "metric"))) == {}

    def test_every_score_is_shown_with_its_change(self):
        assert score_rows({"loss": 0.5, "reward": 2.0}, {"loss": 0.75, "tax": 1.0}) == [
            {"score": "loss", "now": "0.5", "last run": "0.75", "change": "-0.25"},
            {"score": "reward", "now": "2", "last run": "", "change": "new"},
            {"score": "tax", "now": "", "last run": "1", "change": "gone"},
        ]

    @given(st.dictionaries(st.text(min_size=1), st.floats(-1e9, 1e9)))
    def test_the_same_scores_again_have_not_changed(self, scores):
        assert all(float(row["change"]) == 0 for row in score_rows(scores, scores))

    @pytest.mark.parametrize(
        ("value", "told"), [(None, ""), (3.0, "3"), (1234567, "1,234,567"), (0.123456, "0.1235"), (1e-7, "1e-07")]
    )
    def test_numbers_are_short(self, value, told):
        assert number(value) == told


class TestPlots:
    def curve(self, place: Path, text: str) -> Path:
        (place / "curve.csv").write_text(text)
        return place / "curve.csv"

    def test_a_curve_becomes_a_picture(self, tmp_path):
        picture = draw(self.curve(tmp_path, "step,loss\n1,3.0\n2,2.0\n"), {"x": "step", "y": "loss"})
        assert picture.startswith(PNG)
        width, height = struct.unpack(">II", picture[16:24])
        assert width > height > 300
        assert data_uri(picture).startswith("data:image/png;base64,iVBOR")

    def test_a_front_has_a_line_a_method_and_gaps_are_left_out(self, tmp_path):
        one = draw(
            self.curve(tmp_path, "method,skill,reward\naverage,1,2\naverage,2,\naverage,3,1\n"), {"x": "skill", "y": "reward"}
        )
        two = draw(self.curve(tmp_path, "method,skill,reward\naverage,1,2\nraft,3,1\n"), {"x": "skill", "y": "reward"})
        assert one.startswith(PNG)
        assert one != two

    def test_without_axes_the_first_columns_of_numbers_are_drawn(self, tmp_path):
        path = self.curve(tmp_path, "name,a,b\nx,1,2\nx,3,4\n")
        assert draw(path, {}) == draw(path, {"x": "a", "y": "b"})

    @pytest.mark.parametrize("text", ["", "step,loss\n", "step,loss\na,b\n", "only\n1\n"])
    def test_no_numbers_is_an_error_that_names_the_file(self, tmp_path, text):
        with pytest.raises(ValueError, match=r"curve\.csv: no columns of numbers"):
            draw(self.curve(tmp_path, text), {"x": "step", "y": "loss"})


class TestTables:
    def test_outs_are_linked_with_their_size_and_a_missing_one_is_said_to_be(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model/a").write_bytes(b"x" * 3 * 2**20)
        (tmp_path / "model/b").write_bytes(b"")
        told = outs_table(tmp_path, stage(Out("model", "out"), Out("gone.json", "metric")))
        assert f"[model]({(tmp_path / 'model').as_uri()}) | out | 2 files, 3.0 MB |" in told
        assert "| metric | missing |" in told

    def test_the_summary_has_the_first_scores_or_the_reason(self):
        rows = summary_rows(
            RunResult(
                (
                    StageResult("sft", "completed", 12.34, "", {"loss": 0.5, "a": 1.0, "b": 2.0, "c": 3.0}),
                    StageResult("raft", "failed", 1.0, "raft: it broke"),
                    StageResult("average", "blocked", 0.0, "not run: raft did not finish"),
                )
            )
        )
        assert [row["scores"] for row in rows] == ["loss 0.5, a 1, b 2", "raft: it broke", "not run: raft did not finish"]
        assert [row["seconds"] for row in rows] == ["12.3", "1.0", ""]


class Tags(HTMLParser):
    """The tags of a page, and where its links go."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert)",
        "a|b",
        "`code`",
        "![x](http:y)",
        "<!-- a",
        "**a**",
        "a&lt;b",
        "\\| \\[",
    ],
)
def test_a_name_is_only_a_name_on_prefects_page(tmp_path, name):
    told = outs_table(tmp_path, stage(Out(f"out/{name}", "out"), Out("plain", "out")))
    markdown = MarkdownIt("commonmark").enable("table")
    markdown.validateLink = lambda url: True
    page = Tags(markdown.render(told))
    assert set(page.tags) == {"p", "table", "thead", "tbody", "tr", "th", "td", "a"}
    assert page.tags.count("td") == 2 * 3
    assert len(page.links) == 2
    assert all(link.startswith("file://") for link in page.links)
