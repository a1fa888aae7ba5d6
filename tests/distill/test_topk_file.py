"""A top-k file gives back what was written, goes on where it stopped, and any change to any byte is noticed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.distill.topk_file import DIGEST, HEADER, Header, TopK, Writer
from tasks.runtime.params import UserError


def header(positions: int = 10, k: int = 5, vocabulary: int = 300, block: int = 4, **more: str) -> Header:
    hashes = {"teacher": "t", "tokenizer": "a", "data": "d", **more}
    return Header(positions=positions, k=k, vocabulary=vocabulary, block=block, **hashes)


def content(head: Header, seed: int = 0):
    """Distinct ids and falling probabilities of every position."""
    draw = np.random.default_rng(seed)
    ids = np.stack([draw.choice(head.vocabulary, head.k, replace=False) for _ in range(head.positions)])
    probs = -np.sort(-draw.dirichlet(np.ones(head.k + 1), head.positions)[:, : head.k], axis=1)
    return ids.astype(np.int64), probs.astype(np.float32)


def write(path, head: Header, portion: int = 3):
    ids, probs = content(head)
    writer = Writer(path, head)
    for start in range(writer.done, head.positions, portion):
        writer.append(ids[start : start + portion], probs[start : start + portion])
    return ids, probs


@settings(max_examples=25)
@given(
    positions=st.integers(1, 40),
    k=st.integers(1, 7),
    vocabulary=st.sampled_from([7, 65_536, 65_537, 1 << 24]),
    block=st.integers(1, 20),
    portion=st.integers(1, 50),
)
def test_what_was_written_is_read(tmp_path_factory, positions, k, vocabulary, block, portion):
    """Ids exactly, probabilities to half a unit of 1/65,535, in whatever portions they were written and are read."""
    path, head = tmp_path_factory.mktemp("f") / "x.topk", header(positions, k, vocabulary, block)
    ids, probs = write(path, head, portion)
    file = TopK(path)
    assert len(file) == positions
    middle = positions // 2
    for start, stop in ((0, positions), (0, middle), (middle, positions)):
        found_ids, found_probs = file.read(start, stop)
        assert (found_ids == ids[start:stop]).all()
        assert np.abs(found_probs - probs[start:stop]).max(initial=0) <= 0.5 / 65_535 + 1e-7
    assert (np.diff(file.read(0, positions)[1], axis=1) <= 0).all(), "likeliest first, as written"


def test_the_ends_of_the_range_are_exact(tmp_path):
    Writer(tmp_path / "x", header(1, 2)).append(np.array([[299, 0]]), np.array([[1.0, 0.0]], np.float32))
    ids, probs = TopK(tmp_path / "x").read(0, 1)
    assert ids.tolist() == [[299, 0]]
    assert probs.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("vocabulary", "most"), [(645, 20.1), (65_536, 20.1), (128_256, 25.1), (256_000, 25.1)])
def test_bytes_a_token_with_everything_counted(vocabulary, most):
    """At k = 5 no vocabulary takes more than 30 bytes a token."""
    head = Header(positions=100_000, k=5, vocabulary=vocabulary, teacher="t" * 64, tokenizer="a" * 64, data="d" * 64)
    assert head.size / head.positions <= most


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a", header(), 3)
    write(tmp_path / "b", header(), 10)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size == header().size


@pytest.mark.parametrize("stopped", range(11))
def test_stopped_and_begun_again_equals_never_stopped(tmp_path, stopped):
    """Blocks of 4 positions: after `stopped` positions the whole blocks are kept and nothing else."""
    ids, probs = write(tmp_path / "whole", header())
    Writer(tmp_path / "x", header()).append(ids[:stopped], probs[:stopped])
    again = Writer(tmp_path / "x", header())
    assert again.done == (10 if stopped == 10 else stopped // 4 * 4)
    again.append(ids[again.done :], probs[again.done :])
    assert (tmp_path / "x").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_block_that_changed_since_is_written_again_with_all_behind_it(tmp_path):
    ids, probs = write(tmp_path / "x", header())
    before = (tmp_path / "x").read_bytes()
    flip(tmp_path / "x", HEADER + 5 * 5 * 2, 0)  # position 5, in the second block
    again = Writer(tmp_path / "x", header())
    assert again.done == 4
    again.append(ids[4:], probs[4:])
    assert (tmp_path / "x").read_bytes() == before


@pytest.mark.parametrize("change", [{"data": "other"}, {"teacher": "other"}, {"tokenizer": "other"}, {"k": 4}])
def test_what_was_begun_for_something_else_is_begun_anew(tmp_path, change):
    write(tmp_path / "x", header())
    assert Writer(tmp_path / "x", header(**change)).done == 0


def flip(path, byte: int, bit: int) -> None:
    changed = bytearray(path.read_bytes())
    changed[byte] ^= 1 << bit
    path.write_bytes(changed)


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path_factory, place, bit):
    path = tmp_path_factory.mktemp("f") / "x.topk"
    write(path, header())
    flip(path, int(place * header().size), bit)
    with pytest.raises(UserError, match=r"x.topk: damaged: .*; remove it and run teacher-topk again"):
        TopK(path)


@pytest.mark.parametrize(
    ("byte", "says"),
    [
        (0, "its header is cut off or changed"),
        (DIGEST + 3, "its header is cut off or changed"),
        (HEADER + 9 * 5 * 2, "positions 8 to 9 do not have their checksum"),
        (HEADER + 10 * 5 * 2, "positions 0 to 3 do not have their checksum"),
        (header().size - 1, "positions 8 to 9 do not have their checksum"),
    ],
    ids=["checksum of the header", "header", "ids", "probabilities", "checksum of a block"],
)
def test_the_place_of_the_damage_is_named(tmp_path, byte, says):
    write(tmp_path / "x", header())
    flip(tmp_path / "x", byte, 0)
    with pytest.raises(UserError, match=says):
        TopK(tmp_path / "x")


@pytest.mark.parametrize("left", [0, 10, HEADER - 1, HEADER, HEADER + 7, -1])
def test_a_file_cut_short_is_refused(tmp_path, left):
    write(tmp_path / "x", header())
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[:left])
    with pytest.raises(UserError, match=r"x: damaged: (its header is cut off|it has \d+ bytes instead of \d+)"):
        TopK(tmp_path / "x")


def test_a_file_that_was_never_finished_is_refused(tmp_path):
    ids, probs = content(header())
    Writer(tmp_path / "x", header()).append(ids[:8], probs[:8])
    with pytest.raises(UserError, match="positions 8 to 9 do not have their checksum"):
        TopK(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="x: no such file; run teacher-topk first"):
        TopK(tmp_path / "x")


@pytest.mark.parametrize(
    ("hashes", "says"),
    [
        ({"tokenizer": "b", "data": "d"}, "token ids are those of another tokenizer"),
        ({"tokenizer": "a", "data": "e"}, "made from other data .* or packed into rows of another max_length"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, hashes, says):
    write(tmp_path / "x", header())
    TopK(tmp_path / "x").require(tokenizer="a", data="d")
    with pytest.raises(UserError, match=says):
        TopK(tmp_path / "x").require(**hashes)


def test_more_than_the_vocabulary_holds_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"teacher-topk.k: 8, but the teacher's vocabulary has 7 tokens; lower it"):
        Writer(tmp_path / "x", header(k=8, vocabulary=7))
