"""The report: a summary that depends on numbers alone, and a page that is whole, safe, and right for every kind of run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.page.changes import Changes, last_different, numbers, read_kept, short
from tasks.evaluate.page.pipeline import draw, stages_of, with_records
from tasks.evaluate.page.summary import summarise
from tasks.evaluate.page.svg import Axis
from tasks.runtime.imports import ROOT
from tasks.runtime.params import read_yaml
from tests.evaluate.finished_run import ITERATIONS, STAGES, WEIGHTS, evaluation, params, record, write_json, write_run

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """What a page is made of; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] not in (["style"], ["title"], ["desc"]):
            self.words += f"{data} "

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        """The attributes of every such tag whose class holds every word of `kind`."""
        return [a for name, a in self.tags if name == tag and set(kind.split()) <= set((a.get("class") or "").split())]

    def text(self) -> str:
        return re.sub(r"\s+", " ", self.words)


def start(place: Path, arguments: list[str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tasks.evaluate.report", *arguments]
    return subprocess.run(command, cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def report(place: Path, **kind) -> Page:
    """Write a finished run below `place` and report on it."""
    done = start(place, write_run(place, **kind))
    assert done.returncode == 0, done.stderr
    return page_of(place)


def page_of(place: Path) -> Page:
    return Page((place / "data/report/index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """A first run of the invented world."""
    place = tmp_path_factory.mktemp("atlas")
    report(place)
    return place


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run on real data: no pretraining, one skill, a single seed, and nothing recorded."""
    place = tmp_path_factory.mktemp("real")
    report(place, real=True, seeds=1, recorded=False)
    return place


def summary_of(place: Path) -> dict:
    return json.loads((place / "data/report/summary.json").read_text())


def test_the_headline_is_that_of_the_evaluation(atlas):
    head, found = summary_of(atlas)["headline"], evaluation()["summary"]
    assert head["seeds"] == 3
    assert (head["reward_before"], head["reward_after"]) == (found["sft"]["reward"], found["raft"][-1]["reward"]["mean"])
    assert (head["w_pre"], head["skill_averaged"]) == (0.2, found["average"][1]["skill"]["mean"])
    assert head["hypervolume_averaging"] == found["hypervolume"]["averaging"]["mean"]
    assert head["claims_yes"] + head["claims_no"] + head["claims_not_at_this_scale"] == len(summary_of(atlas)["claims"])


def test_the_average_nearest_to_the_advised_weight_is_the_one_that_is_told():
    found = evaluation()
    for course in [found["summary"]["average"], *(seed["average"] for seed in found["seeds"].values())]:
        del course[1]
    claims = {"yes": 0, "no": 0, "not_at_this_scale": 0, "claims": []}
    assert summarise({}, found, claims)["headline"]["w_pre"] in (0.1, 0.3)


def test_every_model_has_a_row_with_the_mean_of_each_skill(atlas):
    rows = {row["model"]: row for row in summary_of(atlas)["models"]}
    assert list(rows) == ["base", "sft", *(f"RAFT {k}" for k in ITERATIONS), *(f"average {w}" for w in WEIGHTS)]
    seeds = evaluation()["seeds"].values()
    assert rows["RAFT 3"]["skills"]["cipher"] == pytest.approx(sum(seed["raft"][2]["skills"]["cipher"] for seed in seeds) / 3)


def test_the_same_numbers_give_the_same_summary_whatever_the_place_and_time(atlas, tmp_path):
    report(tmp_path, recorded=False)
    assert (tmp_path / "data/report/summary.json").read_bytes() == (atlas / "data/report/summary.json").read_bytes()


def test_scores_of_stages_that_are_no_part_of_the_run_are_not_told(tmp_path):
    write_json(tmp_path / "data/scores/pretrain.json", {"loss": 1.0})
    (tmp_path / "data/scores/pretrain.csv").write_text("step,loss\n1,2\n")
    page = report(tmp_path, real=True)
    assert "pretrain" not in summary_of(tmp_path)["scores"]
    assert "pretrain" not in page.text()


def test_the_page_is_one_file_that_asks_for_nothing_and_runs_nothing(atlas):
    page = page_of(atlas)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    addresses = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("href", "src", "xlink:href")]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    assert {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"} in page.all(
        "meta"
    )
    style = (ROOT / "tasks/evaluate/templates/style.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_every_link_leads_to_a_section_and_every_name_stands_once(atlas):
    page = page_of(atlas)
    names = Counter(attrs["id"] for _, attrs in page.tags if "id" in attrs)
    assert set(names.values()) == {1}
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(names)
    assert {attrs[key] for _, attrs in page.tags for key in attrs if key == "aria-labelledby"} <= set(names)


def test_figures_and_tables_say_what_they_are(atlas):
    page = page_of(atlas)
    tags = [tag for tag, _ in page.tags]
    assert all(attrs["role"] == "img" for attrs in page.all("svg"))
    for number, tag in enumerate(tags):
        if tag == "svg":
            assert tags[number + 1 : number + 3] == ["title", "desc"]
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_the_front_has_every_seed_faintly_and_each_mean_boldly(atlas):
    text = (atlas / "data/report/index.html").read_text()
    front = next(svg for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "Reward against mean skill" in svg)
    lines = Counter(re.findall(r'polyline class="line ([^"]+)"', front))
    assert lines == {"early faint": 3, "averaged faint": 3, "early": 1, "averaged": 1}
    assert [words for words in re.findall(r">([^<]+)</text>", front) if words in ("0.1", "0.2", "0.3", "0.4", "0.6")]
    assert "before RLHF" in front
    assert "after RLHF" in front


def test_claims_stand_with_paper_published_figure_interval_and_verdict(atlas):
    text = page_of(atlas).text()
    for claim in summary_of(atlas)["claims"]:
        assert claim["claim"] in text
        assert claim["published"] in text
        assert f"{short(claim['mean'])} [{short(claim['low'])}, {short(claim['high'])}]" in text


def test_a_single_seed_has_no_interval_and_decides_nothing(real):
    text = page_of(real).text()
    assert text.count("not at this scale") >= 7
    assert "None" not in text
    assert "nan" not in text


def test_real_data_has_one_skill_and_no_pretraining(real):
    text = page_of(real).text()
    assert "next token" in text
    front = next(iter(re.findall(r"<svg.*?</svg>", (real / "data/report/index.html").read_text(), re.DOTALL)))
    assert "Reward against next token" in front
    assert "mean skill" not in front
    assert "pretrain" not in text
    assert "fetch@base" in text
    assert "fetch-base" in text


def test_without_records_the_page_says_so(real, atlas):
    assert "plain dvc repro does not" in page_of(real).text()
    told = page_of(atlas).text()
    assert "plain dvc repro does not" not in told
    assert all(words in told for words in ("aaaaaaaaaa", "torch 2.13.0", "A processor", "memory, GiB: 23.5"))


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)></style>\"'>{{ 7*7 }}\u202e javascript:alert(3) \x00"


def test_what_a_model_writes_is_shown_and_never_run(tmp_path):
    arguments = write_run(tmp_path)
    told = dict.fromkeys(("base", "sft", "raft", "average"), EVIL)
    rows = [{"kind": EVIL, "prompt": EVIL, "reference": EVIL, "completions": told}]
    (tmp_path / "data/sets/generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    claims = json.loads((tmp_path / "data/scores/claims.json").read_text())
    claims["claims"][0] |= {"claim": EVIL, "published": EVIL, "metric": EVIL, "paper": EVIL}
    write_json(tmp_path / "data/scores/claims.json", claims)
    write_json(tmp_path / "data/scores/sft.json", {EVIL: 1.0})
    (tmp_path / "params.yaml").write_text(json.dumps(params(False) | {"sft": {"note": EVIL}}))
    record(tmp_path, "sft", seconds=1.0, finished=EVIL)
    done = start(tmp_path, arguments)
    assert done.returncode == 0, done.stderr
    page = page_of(tmp_path)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert page.words.count("<script>alert(1)</script>") >= 9
    assert "{{ 7*7 }}" in page.words
    assert len(page.all("style")) == 1


def test_a_second_run_shows_how_each_number_changed(tmp_path):
    assert "new" in report(tmp_path).text()
    page = report(tmp_path, shift=0.02)
    assert "since the last run: ±0, +0.008" in page.text()
    assert "+0.020" in page.text()
    again = report(tmp_path, shift=0.02)
    assert "since the last run: ±0, +0.008" in again.text(), "the same numbers again still compare with the last that differed"
    assert "since the last run: ±0, −0.008" in report(tmp_path).text()


def test_a_damaged_memory_of_the_last_run_counts_as_none(tmp_path):
    report(tmp_path)
    kept = tmp_path / ".temper/report/previous.json"
    assert read_kept(kept)["summary"] == summary_of(tmp_path)
    kept.write_text('{"summary": ')
    assert "There is no earlier run to compare with." in report(tmp_path, shift=0.02).text()


def test_changes_are_told_by_name():
    changes = Changes({"a": {"b": 1.5, "c": 2}, "rows": [{"model": "sft", "reward": 1}]}, {"a": {"b": 1.0, "c": 2}})
    assert [changes.of(name) for name in ("a.b", "a.c", "rows.sft.reward")] == ["+0.500", "=", "new"]
    assert changes.since(["a.b", "a.c"]) == "since the last run: +0.500, ±0"
    assert changes.since(["a.c"]) == "as in the last run"
    assert dict(numbers({"flag": True, "word": "x", "none": None})) == {}


def test_nothing_is_kept_before_the_first_run(tmp_path):
    assert last_different(tmp_path / "none.json", {}) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (3, "3"), (12345, "12,345"), (1_180_000, "1,180,000"), (0.4816, "0.482"), (-0.5, "−0.500"), (12.345, "12.35"),
     (123.45, "123.5"), (1234.5, "1,234"), (3.1e-5, "3.1e−05"), (0.0, "0.000"), (2.5e10, "2.5e+10")],
)  # fmt: skip
def test_numbers_are_short(value, words):
    assert short(value) == words


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8), st.booleans())
def test_ticks_are_round_and_within_the_axis(low, size, count, whole):
    axis = Axis("x", low, low + size, whole)
    ticks = axis.ticks(count)
    room = max(1e-6 * (abs(low) + size), 1e-8)  # rounding may move a tick by a hair of its step
    assert all(low - room <= tick <= low + size + room for tick in ticks)
    assert len(ticks) <= count + 1
    if whole:
        assert all(tick == int(tick) for tick in ticks)
    elif size > 1e-3 * abs(low):
        assert len(ticks) >= 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9))
def test_an_axis_has_room_for_every_value(values):
    axis = Axis.around("x", values)
    assert axis.low < axis.high
    assert axis.low <= min(values)
    assert axis.high >= max(values)
    assert Axis.around("x", values, low=min(values), high=max(values) + 1).low == min(values)


def pipeline(real: bool):
    return stages_of(read_yaml(ROOT / "dvc.yaml"), params(real), "report")


def test_the_pipeline_is_that_of_dvc_yaml_in_an_order_that_can_run():
    stages = {stage.name: stage for stage in pipeline(real=False)}
    assert list(stages)[-1] == "report"
    assert set(stages) == {*STAGES, "report"}
    assert set(stages["average"].needs) == {"sft", "raft"}
    done = set()
    for stage in stages.values():
        assert set(stage.needs) <= done, stage.name
        done.add(stage.name)


def test_a_profile_changes_what_is_needed():
    stages = {stage.name: stage for stage in pipeline(real=True)}
    assert {"fetch@base", "fetch@prompts"} <= set(stages)
    assert not {"corpus", "tokenizer", "pretrain"} & set(stages)
    assert set(stages["sft"].needs) == {"fetch@base", "fetch@prompts"}


def test_a_stage_ran_was_reused_or_was_not_recorded(tmp_path):
    record(tmp_path, "sft", seconds=75.2, finished="2026-11-22T15:00:00+0000")
    record(tmp_path, "raft", seconds=3.24, finished="2026-11-22T16:00:00+0000")
    (tmp_path / ".temper/history/reward.json").write_text("{")
    seen = {"sft": "2026-11-22T15:00:00+0000", "raft": "2026-11-21T09:00:00+0000"}
    told = {stage.name: stage for stage in with_records(pipeline(real=False), tmp_path / ".temper/history", seen)}
    assert (told["sft"].state, told["sft"].time, told["sft"].finished) == ("reused", "1:15 min", "2026-11-22 15:00")
    assert (told["raft"].state, told["raft"].time) == ("ran", "3.2 s")
    assert (told["reward"].state, told["reward"].time) == ("not recorded", "")
    assert told["report"].state == "this page"


def test_the_drawing_has_a_box_for_every_stage_and_an_edge_for_every_need():
    stages = pipeline(real=False)
    drawn = str(draw(stages))
    assert re.findall(r'class="name"[^>]*>([^<]+)<', drawn) == [stage.name for stage in stages]
    assert len(re.findall(r'class="edge', drawn)) == sum(len(stage.needs) for stage in stages)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("data/scores/evaluate.json", None, "data/scores/evaluate.json: no such file; run the stage"),
        ("data/scores/claims.json", '{"claims": [', "data/scores/claims.json: not JSON"),
        ("data/scores/front.csv", "seed,method,strength,reward,skill\n", "data/scores/front.csv: holds no row"),
    ],
)
def test_missing_and_damaged_scores_are_named(tmp_path, file, content, said):
    arguments = write_run(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    done = start(tmp_path, arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]


def test_recall_by_exposure_is_drawn_where_a_stage_measured_it(tmp_path):
    arguments = write_run(tmp_path)
    write_json(tmp_path / "data/scores/pretrain.json", {"recall_by_exposure": {"0": 0.05, "4": 0.5, "32": 0.99}})
    assert start(tmp_path, arguments).returncode == 0
    text = (tmp_path / "data/report/index.html").read_text()
    assert "told 0 times: 0.050; told 4 times: 0.500; told 32 times: 0.990" in text


def test_neither_torch_nor_scipy_is_loaded():
    code = "import sys, tasks.evaluate.report; assert not {'torch', 'scipy', 'numpy', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_is_wider_than_the_screen_and_text_stands_out(atlas, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        told, asked = [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((atlas / "data/report/index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        browser.close()
    assert not told
    assert len(asked) == 1
    assert contrast(ink, paper) > 7
    assert (luminance(paper) < 0.1) == (scheme == "dark")


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
