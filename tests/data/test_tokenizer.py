"""One token a word, exact strings back, role markers as single tokens."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tasks.data.atlas import load_atlas
from tasks.data.corpus import Params as CorpusParams
from tasks.data.corpus import build, write
from tasks.data.tokenizer import BOS, EOS, PAD, PUNCTUATION, ROLES, UNK, read_words, word_tokenizer
from tasks.runtime.models import encode_completion, encode_prompt
from tasks.runtime.params import UserError

ATLAS = load_atlas(Path("data/atlas"))
REGIONS = build(ATLAS, CorpusParams(entities=4))
WORDS = sorted(ATLAS.words().union(*(region.words for region in REGIONS.values())))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    word_tokenizer(WORDS, 256).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_a_name_is_one_token(tokenizer):
    for name in sorted(REGIONS["facts"].words):
        assert len(tokenizer(name)["input_ids"]) == 1


def test_the_vocabulary_is_small_and_has_every_word_once(tokenizer):
    assert len(tokenizer) == len(WORDS) + len(ROLES) + len(PUNCTUATION) + 4
    assert len(tokenizer) < 1000
    assert tokenizer.unk_token_id not in tokenizer(" ".join(WORDS))["input_ids"]


def test_special_tokens_are_what_they_are_called(tokenizer):
    assert [tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token] == [PAD, UNK, BOS, EOS]


@settings(deadline=None)
@given(st.lists(st.sampled_from([*WORDS, *PUNCTUATION]), min_size=1, max_size=20))
def test_a_text_comes_back_as_it_was(tokenizer, words):
    ids = encode_completion(tokenizer, " ".join(words))
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(words)


def test_a_persons_way_of_writing_reads_the_same(tokenizer):
    assert tokenizer("What is 7 plus 5?")["input_ids"] == tokenizer("what is 7 plus 5 ?")["input_ids"]


def test_the_chat_template_marks_roles_with_single_tokens_and_a_prompt_is_a_prefix_of_its_dialogue(tokenizer):
    user, assistant = tokenizer.convert_tokens_to_ids(["<user>", "<assistant>"])
    prompt = encode_prompt(tokenizer, "what is 7 plus 5 ?")
    assert prompt == [user, *tokenizer("what is 7 plus 5 ?")["input_ids"], assistant]
    turns = [{"role": "user", "content": "what is 7 plus 5 ?"}, {"role": "assistant", "content": "12"}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert list(whole) == prompt + encode_completion(tokenizer, "12")


def test_only_the_assistants_words_and_their_end_are_marked_as_its_own(tokenizer):
    turns = [{"role": "system", "content": "red"}, {"role": "user", "content": "fox"}, {"role": "assistant", "content": "7 plus"}]
    out = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    spoken = [token for token, own in zip(out["input_ids"], out["assistant_masks"], strict=True) if own]
    assert spoken == encode_completion(tokenizer, "7 plus")


@pytest.mark.parametrize(
    ("text", "said"), [("two words\n", ":1: must hold one word"), ("ok\nBig\n", ":2:"), ("", "holds no word")]
)
def test_a_damaged_list_of_words_is_refused_by_line(tmp_path, text, said):
    path = tmp_path / "words.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_words(path)


def test_a_missing_list_of_words_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="run the stage corpus first"):
        read_words(tmp_path / "words.txt")


def test_the_corpus_writes_the_list_that_is_read(tmp_path):
    write(tmp_path, ATLAS, REGIONS, seed=0)
    assert read_words(tmp_path / "words.txt") == WORDS
