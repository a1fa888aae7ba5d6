"""Every declaration of a Lean file becomes a theorem or a reject with its reason, under its full name."""

import csv
import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.lean.extract import LeanFile, extract, read_folder
from tests.runtime.lean import reference


def read(text, path="A.lean"):
    return extract([LeanFile(path, text.encode() if isinstance(text, str) else text)], "c0ffee")


def one(text):
    """The only theorem of a text that has no rejects."""
    out = read(text)
    assert not out.rejected
    (theorem,) = out.theorems
    return theorem


def reasons(text):
    return [(reject.Kind, reject.Name, reject.Reason) for reject in read(text).rejected]


def test_a_theorem_under_the_field_names_of_the_published_set():
    theorem = one("/-- Adding nothing. -/\n@[simp]\nprotected theorem add_zero (n : Nat) : n + 0 = n := by\n  simp -- easy\n")
    assert theorem.model_dump() == {
        "idx": 0,
        "Name": "add_zero",
        "Statement": "theorem add_zero (n : Nat) : n + 0 = n :=",
        "Proof": "theorem add_zero (n : Nat) : n + 0 = n := by\n  simp -- easy",
        "Informal_statement": None,
        "Informal_proof": None,
        "File_path": "A.lean",
        "Commit": "c0ffee",
        "Docstring": "Adding nothing.",
        "Kind": "theorem",
        "Modifiers": ["protected"],
        "Attributes": ["simp"],
        "Opened": [],
        "Line": 3,
        "Sorry": False,
    }


@pytest.mark.parametrize(
    ("text", "statement", "proof_begins"),
    [
        ("theorem a : 1 = 1 := rfl", "theorem a : 1 = 1 :=", "rfl"),
        ("theorem a (h : 0 < 1 := by simp) : T := h", "theorem a (h : 0 < 1 := by simp) : T :=", "h"),
        ("theorem a : let x := 3; x = 3 := rfl", "theorem a : let x := 3; x = 3 :=", "rfl"),
        ("theorem a : have h := b; have : c := d\n  P := rfl", "theorem a : have h := b; have : c := d\n  P :=", "rfl"),
        ("theorem a : |x| ≤ |y| + |f (fun z => z)| := b", "theorem a : |x| ≤ |y| + |f (fun z => z)| :=", "b"),
        ("theorem a : ∀ n, p n\n  | 0 => b\n  | n + 1 => c", "theorem a : ∀ n, p n", "| 0 => b"),
        ("theorem a : ∀ n, p n | 0 | 1 => b | _ => c", "theorem a : ∀ n, p n", "| 0 | 1 => b"),
        ("theorem a : match n with | 0 => P | _ => Q := b", "theorem a : match n with | 0 => P | _ => Q :=", "b"),
        ("theorem a : C fun | 0 => x | _ => y := b", "theorem a : C fun | 0 => x | _ => y :=", "b"),
        ("theorem a : P ∧ Q where\n  left := b\n  right := c", "theorem a : P ∧ Q", "where\n  left"),
        ("theorem a : {x | p x} = s := b", "theorem a : {x | p x} = s :=", "b"),
        ('theorem a : "x := y".length = 6 := b', 'theorem a : "x := y".length = 6 :=', "b"),
        ("theorem a : P /- := -/ -- :=\n  := b", "theorem a : P /- := -/ -- :=\n  :=", "b"),
    ],
)
def test_where_a_statement_ends(text, statement, proof_begins):
    theorem = one(text)
    assert (theorem.Statement, theorem.Proof) == (statement, text)
    assert theorem.Proof.removeprefix(theorem.Statement).lstrip().startswith(proof_begins)


@pytest.mark.parametrize(
    "proof",
    [
        "by\n  induction n with\n  | zero => simp\n  | succ n ih => omega",
        "f n\nwhere\n  f : P\n    | 0 => x\n  /-- doc -/\n  g := y",
        "f n\ntermination_by n\ndecreasing_by omega",
        "by\n  open Nat in simp\n  set_option maxRecDepth 9 in\n  decide",
        "by\n  exact (deriving_instance x).end\n  -- the end",
        "by\nsimp\nring",
        "by\n  have : x = \"theorem b : 1 = 1 := rfl\" := y /- theorem c -/\n  simp",
        "fun x =>\n  `(theorem x : True := trivial)",
        "by\n  case «end» => simp",
    ],
)  # fmt: skip
def test_a_proof_keeps_all_that_belongs_to_it(proof):
    """Above all not the declaration after it, nor its comment and documentation."""
    first = f"theorem a : P := {proof}"
    out = read(f"{first}\n\n-- about b\n/-- doc -/\nlemma b : Q := x\n")
    assert [theorem.Proof for theorem in out.theorems] == [first, "lemma b : Q := x"]
    assert [theorem.Docstring for theorem in out.theorems] == [None, "doc"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("namespace A.B\ntheorem c : P := p\nend B\ntheorem c : P := p\nend A\ntheorem c : P := p", ["A.B.c", "A.c", "c"]),
        ("namespace A\nsection S.T\ntheorem c : P := p\nend S.T\ntheorem d : P := p\nend A", ["A.c", "A.d"]),
        ("namespace A\nsection\ntheorem c.d : P := p\nend\ntheorem _root_.e : P := p\nend A", ["A.c.d", "e"]),
        ("namespace «A.B»\ntheorem «c d» : P := p\nend «A.B»\ntheorem f.{u} : P := p", ["«A.B».«c d»", "f"]),
        ("@[expose] public section\nnamespace A\ntheorem c : P := p\nend A\nend\ntheorem d : P := p", ["A.c", "d"]),
        ("namespace A theorem c : P := p end A theorem d : P := p", ["A.c", "d"]),
        ("namespace A\nexample : P := p\nexample : P := p\nend A", ["A.example#1", "A.example#2"]),
        ("namespace A\nmutual\ntheorem c : P := d\ntheorem d : P := c\nend\nend A\ntheorem e : P := p", ["A.c", "A.d", "e"]),
    ],
)
def test_full_names(text, names):
    out = read(text)
    assert [theorem.Name for theorem in out.theorems] == names
    assert not out.rejected


def test_what_stands_before_the_keyword():
    theorem = one(
        "open Nat Real in\nset_option maxHeartbeats 0 in\n/-- Doc\n  of two lines. -/\n"
        "@[simp, to_additive (attr := norm_cast) foo]\n@[local aesop 50%]\nprivate noncomputable\n  theorem a : P := p"
    )
    assert theorem.Opened == ["open Nat Real in", "set_option maxHeartbeats 0 in"]
    assert theorem.Attributes == ["simp", "to_additive (attr := norm_cast) foo", "local aesop 50%"]
    assert theorem.Modifiers == ["private", "noncomputable"]
    assert theorem.Docstring == "Doc\nof two lines."
    assert theorem.Proof == "theorem a : P := p"
    assert theorem.Line == 8


def test_declarations_in_a_mutual_block_say_so():
    out = read("mutual\nprivate theorem a : P := b\ntheorem b : P := a\nend\ntheorem c : P := p")
    assert [theorem.Modifiers for theorem in out.theorems] == [["private", "mutual"], ["mutual"], []]


BLUEPRINT = """
blueprint_comment /-- Not the theorem's. -/

@[blueprint "thm:a" (title := "A")
  (statement := /-- Let $x$ be `-- real`.
    Then $P$. -/)
  (proof := /-- By \\ref{b} /- see there -/. -/) (latexEnv := "lemma"), simp]
-- see also b
theorem a : P := p
@[blueprint (statement := /-- Only stated. -/)]
theorem b : P := p
"""


def test_blueprint_annotations_are_the_informal_text():
    first, second = read(BLUEPRINT).theorems
    assert first.Informal_statement == "Let $x$ be `-- real`.\nThen $P$."
    assert first.Informal_proof == "By \\ref{b} /- see there -/."
    assert first.Attributes == ["blueprint", "simp"]
    assert (first.Docstring, second.Informal_statement, second.Informal_proof) == (None, "Only stated.", None)


def test_the_problem_text_goes_to_the_problems_of_a_file():
    out = read(
        "/-! A library note -/\nproblem_file { tags := [.Algebra] }\n/-!\n# Problem\n  Find it.\n-/\n/-! Ours -/\n"
        "snip begin\nlemma a : P := p\nsnip end\ndetermine answer : ℕ := 3\nproblem b : P := p\n"
    )
    assert [(t.Name, t.Informal_statement) for t in out.theorems] == [("a", None), ("b", "# Problem\n  Find it.")]
    assert [reject.Reason for reject in out.rejected] == ["not a theorem: determine"]


def test_unfinished_proofs_are_flagged_by_code_not_by_comments_or_names():
    proofs = ["by sorry", "by\n  · simp\n  · admit", "by simp -- no sorry needed", 'f "sorry" sorry_free']
    out = read("\n".join(f"theorem t{i} : P := {proof}" for i, proof in enumerate(proofs)))
    assert [theorem.Sorry for theorem in out.theorems] == [True, True, False, False]


def test_declarations_that_are_no_theorems_are_rejected_by_kind():
    text = (
        "def f : Nat → Nat\n| 0 => 1\n| n+1 => f n\nstructure S where\n  /-- doc -/\n  x : Nat\nderiving Repr\n"
        "class inductive T\n/-- doc -/\n| a\ninstance : Inhabited S := ⟨⟨0⟩⟩\nnamespace A\nscoped[B] notation \"x\" => y\n"
        "@[simp] alias g := h\nend A\n@[simp] private irreducible_def k := 3\naxiom choice : P\n"
    )  # fmt: skip
    assert reasons(text) == [
        ("def", "f", "not a theorem: def"),
        ("structure", "S", "not a theorem: structure"),
        ("inductive", "T", "not a theorem: inductive"),
        ("instance", "", "not a theorem: instance"),
        ("alias", "A.g", "not a theorem: alias"),
        ("irreducible_def", "k", "not a theorem: irreducible_def"),
        ("axiom", "choice", "not a theorem: axiom"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("theorem a : P", ("theorem", "a", "no proof")),
        ("theorem a : P :=", ("theorem", "a", "no proof")),
        ("theorem a : P := by -- later", ("theorem", "a", "no proof")),
        ("theorem a : P where", ("theorem", "a", "no proof")),
        ("theorem : P := p", ("theorem", "", "no name")),
        ("theorem a : P := f (x", ("theorem", "a", "brackets do not close")),
        ("theorem a : P := p\n/- cut", ("theorem", "a", "cut off")),
        ('theorem a : P := f "x', ("theorem", "a", "cut off")),
        ("def b := 1\n/-- what a", ("", "", "cut off")),
        ("@[simp]\nprivate", ("", "", "cut off")),
        ("/- cut", ("file", "", "cut off")),
        ("theorem_about x : P := p", ("theorem_about", "", "unknown command")),
    ],
)
def test_what_cannot_be_a_record_is_rejected_with_the_reason(text, expected):
    assert reasons(text)[-1] == expected
    assert read(text).theorems == []


def test_a_file_cut_in_the_middle_of_a_comment_keeps_what_stands_before():
    out = read("theorem a : P := p\ntheorem b : Q := q\n  /- why /- not -/\n\ntheorem c : R := r\n")
    assert [theorem.Name for theorem in out.theorems] == ["a"]
    (reject,) = out.rejected
    assert (reject.Name, reject.Reason, reject.Detail) == ("b", "cut off", "comment never closes, from line 3")
    assert "theorem c" in reject.Text


def test_a_bracket_that_never_closes_costs_one_declaration():
    out = read("theorem a : P := f (x\n\n/-- doc -/\ntheorem b : Q := q\n")
    assert [(theorem.Name, theorem.Docstring) for theorem in out.theorems] == [("b", "doc")]
    assert [(reject.Name, reject.Reason) for reject in out.rejected] == [("a", "brackets do not close")]


def test_an_unknown_command_is_named_and_does_not_enter_the_proof_before_it():
    out = read("theorem a : P := by\n  simp\nmy_command foo\ntheorem b : Q := q")
    assert [theorem.Proof for theorem in out.theorems] == ["theorem a : P := by\n  simp", "theorem b : Q := q"]
    assert [(reject.Kind, reject.Line, reject.Text) for reject in out.rejected] == [("my_command", 3, "my_command foo")]


def test_of_two_theorems_of_one_name_the_first_counts():
    text = "namespace A\ntheorem b : P := p\ntheorem c : P := p\ntheorem b : Q := q\nend A\ntheorem b : P := p"
    out = read(text)
    assert [(theorem.Name, theorem.Proof) for theorem in out.theorems][::2] == [
        ("A.b", "theorem b : P := p"),
        ("b", "theorem b : P := p"),
    ]
    assert [(reject.Name, reject.Reason, reject.Detail) for reject in out.rejected] == [("A.b", "name taken", "by line 2")]


def test_a_file_that_is_not_utf8_is_rejected_and_the_others_are_read():
    files = [LeanFile("A.lean", b"theorem a : P := p\n-- caf\xe9\n"), LeanFile("B.lean", "theorem b : α := p".encode())]
    out = extract(files, "c")
    assert [(theorem.Name, theorem.File_path, theorem.idx) for theorem in out.theorems] == [("b", "B.lean", 0)]
    (reject,) = out.rejected
    assert (reject.Kind, reject.File_path, reject.Reason, reject.Line) == ("file", "A.lean", "not UTF-8", 2)
    assert "byte 25" in reject.Detail


def test_line_ends_and_byte_order_mark_of_other_systems(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/A.lean").write_bytes("\ufefftheorem a : P := by\r\n  simp\r\n\r\ntheorem b : P := p\r\n".encode())
    out = extract(read_folder(tmp_path), "c")
    assert [(theorem.Proof, theorem.Line) for theorem in out.theorems] == [
        ("theorem a : P := by\n  simp", 1),
        ("theorem b : P := p", 4),
    ]
    assert out.theorems[0].File_path == "sub/A.lean"


DECLARATIONS = st.sampled_from(
    [
        "theorem {} : |x| = 1 := by\n  simp [a] -- b",
        "/-- theorem x : P := p -/\n@[simp]\nlemma {} (h : P := p) : Q :=\n  h",
        "theorem {} : ∀ n, P n\n| 0 => a\n| n => b",
        "open Nat in\nprivate theorem {} : P := by\n  open Real in simp",
        "def {} := ⟨1, 2⟩",
        "structure {} where\n  x : Nat := 1",
        "  protected theorem {} : P where\n    x := 1",
        "theorem {} : P",
        "noncomputable instance {} : P := by infer_instance",
    ]
)
BETWEEN = st.sampled_from(
    ["\n", "\n\n-- theorem c : P := p\n", "\n/- /- theorem -/ lemma -/\n", "\n/-! theorem -/\n", "\nopen Nat\n", "\n  "]
)


@settings(deadline=None)
@given(st.lists(st.tuples(DECLARATIONS, BETWEEN), max_size=8))
def test_every_declaration_is_a_theorem_or_a_reject(declared):
    """By construction: as many names go in as come out, in order, each with its own text."""
    parts = [(declaration.format(f"d{i}"), between) for i, (declaration, between) in enumerate(declared)]
    out = read("".join(declaration + between for declaration, between in parts))
    found = sorted([(t.Line, t.Name, t.Proof) for t in out.theorems] + [(r.Line, r.Name, r.Text) for r in out.rejected])
    assert sorted(name for _, name, _ in found) == [f"d{i}" for i in range(len(parts))]
    by_name = {name: text for _, name, text in found}
    assert all(declaration.strip().endswith(by_name[f"d{i}"].strip()) for i, (declaration, _) in enumerate(parts))


@settings(deadline=None)
@given(st.integers(0, 400), st.text(alphabet="(){}⟨⟩\"'/-«»`|:= \n", max_size=6))
def test_no_damage_to_a_file_raises_or_loses_a_name(place, damage):
    text = BLUEPRINT + "theorem c : P := by\n  simp\n"
    out = read(text[:place] + damage + text[place:])
    assert len(out.theorems) + len(out.rejected) >= 1


def test_five_megabytes_in_bounded_memory():
    """One file of 5 MB with 21,000 theorems, in a process of its own; what it adds is mostly the tokens and the records."""
    script = (
        "import resource; from tasks.data.lean.extract import LeanFile, extract\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "body = '  have h := le_trans h₁ h₂ -- then\\n' * 6 + '\\n'\n"
        "text = ''.join(f'theorem t{i} : x ≤ y := by\\n' + body for i in range(21000))\n"
        "before, file = peak(), LeanFile('A.lean', text.encode())\n"
        "out = extract([file], 'c')\n"
        "print(len(file.content), len(out.theorems), len(out.rejected), (peak() - before) * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    size, theorems, rejected, grown = map(int, done.stdout.split())
    assert size > 5_000_000
    assert (theorems, rejected) == (21000, 0)
    assert grown < 80 * size


@pytest.fixture(scope="module")
def compfiles(real_data):
    return extracted(real_data / "data/lean/compfiles.jsonl")


@pytest.fixture(scope="module")
def blueprint(real_data):
    return extracted(real_data / "data/lean/pnt.jsonl")


def extracted(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return extract([LeanFile(row["file"], row["text"].encode()) for row in rows], "c")


@pytest.mark.real
def test_every_compfiles_problem_has_its_problem_text(compfiles, real_data):
    lines = (real_data / "data/lean/compfiles_index.jsonl").read_text(encoding="utf-8").splitlines()
    index = {row["file"]: row["problem"] for row in map(json.loads, lines)}
    problems = [theorem for theorem in compfiles.theorems if theorem.Kind == "problem"]
    assert {problem.File_path for problem in problems} == set(index)
    assert all(problem.Informal_statement == index[problem.File_path] for problem in problems)
    assert Counter(theorem.Kind for theorem in compfiles.theorems) == {"problem": 125, "lemma": 118, "theorem": 51, "example": 1}
    assert not any(theorem.Sorry for theorem in compfiles.theorems)


@pytest.mark.real
def test_every_blueprint_pair_of_the_index_is_found(blueprint, real_data):
    """One more than the index has: it passes over a lemma that a line comment parts from its annotation."""
    with (real_data / "data/lean/pnt_index.tsv").open(encoding="utf-8") as file:
        index = {row["file"]: int(row["pairs"]) for row in csv.DictReader(file, delimiter="\t")}
    pairs = [theorem for theorem in blueprint.theorems if theorem.Informal_statement and theorem.Informal_proof]
    missed = [theorem for theorem in pairs if theorem.Name.endswith("zeta_pow_three_eq'")]
    assert Counter(pair.File_path for pair in pairs) - Counter(pair.File_path for pair in missed) == index
    assert (sum(index.values()), len(missed)) == (622, 1)


@pytest.mark.real
def test_nothing_real_is_rejected_but_what_is_no_theorem(compfiles, blueprint):
    for out in (compfiles, blueprint):
        assert all(reason.startswith("not a theorem: ") for reason in out.reasons())
    assert (len(blueprint.theorems), len(blueprint.rejected)) == (2442, 363)
    assert (len(compfiles.theorems), len(compfiles.rejected)) == (295, 111)


@pytest.mark.real
def test_real_declarations_are_as_many_as_lines_that_begin_one(blueprint, real_data):
    """Counted another way: keywords at the beginning of a line, in files whose comments were cut out by another scanner."""
    rows = [json.loads(line) for line in (real_data / "data/lean/pnt.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in sorted(rows, key=lambda row: len(row["text"]))[:20]:
        code = [token for token in reference.tokens(row["text"]) if not token.startswith(("--", "/-", '"'))]
        declared = sum(token in ("theorem", "lemma") for token in code)
        assert declared == sum(theorem.File_path == row["file"] for theorem in blueprint.theorems), row["file"]


@pytest.mark.real
def test_every_minif2f_statement_is_read_under_its_name(real_data):
    rows = [json.loads(line) for line in (real_data / "data/lean/minif2f.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 488
    for row in rows:
        theorem = one(row["header"] + row["informal_prefix"] + row["formal_statement"] + "  sorry\n")
        assert (theorem.Name, theorem.Sorry) == (row["name"], True)
        assert f"{theorem.Statement} by" == row["formal_statement"].strip()
        assert theorem.Docstring


@pytest.mark.real
def test_statements_are_cut_where_the_released_set_cuts_them(real_data):
    """All but one, whose published statement runs on into its proof. 14 published names are cut short; the theorem's counts."""
    rows = json.loads((real_data / "data/lean/minif2f_valid_commented.json").read_text(encoding="utf-8"))
    theorems = [one(row["Proof"]) for row in rows]
    other = [row["Name"] for row, theorem in zip(rows, theorems, strict=True) if theorem.Statement != row["Statement"]]
    assert other == ["imo_1979_p1"]
    assert all(theorem.Name.startswith(row["Name"]) for row, theorem in zip(rows, theorems, strict=True))
    assert (len({row["Name"] for row in rows}), len({theorem.Name for theorem in theorems})) == (92, 100)
