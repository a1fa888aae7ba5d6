"""A mistake in the source of Atlas is refused with its file, its key and the reason; random streams stay apart."""

import shutil
from pathlib import Path

import pytest

from tasks.data.atlas import invent, load_atlas, stream
from tasks.runtime.params import UserError

SOURCE = Path("data/atlas")


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(SOURCE, tmp_path / "atlas"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("lexicon.yaml", "largest_number: 100", "largest_number: many", r"lexicon\.yaml: largest_number"),
        ("lexicon.yaml", "red: crimson", "red: azure", "'azure' stands in two places"),
        ("lexicon.yaml", "red: crimson", "red: Crimson", r"lexicon\.yaml: pairs\.colour\.red"),
        ("lexicon.yaml", "red: crimson", "red: [", r"lexicon\.yaml: not valid YAML"),
        ("facts.yaml", "object: place", "object: planet", "no class planet"),
        ("facts.yaml", "exposures: [0,", "exposures: [-1,", r"facts\.yaml: exposures\.0"),
        ("noisy.yaml", "tail_ratio: 0.75", "tail_ratio: 1.5", r"noisy\.yaml: tail_ratio"),
        ("skills.yaml", "largest:", "greatest:", r"skills\.yaml: arithmetic\.(largest|greatest)"),
        ("skills.yaml", "{craft} saw {number}", "{craft} saw", "must have one slot for each question"),
        ("descriptions.yaml", "numbers: [2, 40]", "numbers: [2, 90]", "number 90 is used"),
        ("descriptions.yaml", "{quality}", "{mood}", "no class mood"),
    ],
)
def test_a_mistake_in_the_source_is_refused_by_file_and_reason(folder, file, old, new, said):
    edit(folder / file, old, new)
    with pytest.raises(UserError, match=said):
        load_atlas(folder)


def test_a_missing_file_of_the_source_is_named(folder):
    (folder / "noisy.yaml").unlink()
    with pytest.raises(UserError, match=r"noisy\.yaml: no such file"):
        load_atlas(folder)


def test_a_region_has_a_stream_of_its_own():
    first = stream(0, "facts").random()
    assert first == stream(0, "facts").random()
    assert first != stream(0, "noisy").random()
    assert first != stream(1, "facts").random()


def test_invented_words_are_new_and_different():
    syllables = [["ka", "lu"], ["mo", "ri"]]
    words = invent(syllables, 3, stream(0, "x"), {"kamo"})
    assert sorted(words) == ["kari", "lumo", "luri"]
    with pytest.raises(UserError, match="make 3 words, 4 are needed"):
        invent(syllables, 4, stream(0, "x"), {"kamo"})


def test_no_invented_word_of_the_world_is_one_of_its_common_words():
    atlas = load_atlas(SOURCE)
    names = invent(atlas.lexicon.names, 200, stream(0, "facts"), atlas.words())
    assert not set(names) & atlas.words()
