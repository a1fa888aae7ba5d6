"""The words of Lean, and of the libraries at hand, that tell where commands begin and what they are."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


THEOREMS = _words("theorem lemma example problem")
"""Words of declarations that state something and prove it; `problem` is that of the Compfiles collection."""
SCOPES = _words("namespace section end mutual")
_RESERVED_DEFINITIONS = _words("def abbrev instance structure class inductive coinductive axiom opaque")
RESERVED = (THEOREMS - {"problem"}) | _RESERVED_DEFINITIONS | SCOPES
"""Words that nothing else can be called, so that they begin a command wherever they stand outside brackets."""
DEFINITIONS = _RESERVED_DEFINITIONS | _words("determine irreducible_def alias proof_wanted recall")
"""Words of declarations that are no theorems."""
LOCAL = _words("open set_option attribute variable universe include omit export")
"""Commands that may also stand before another one, or before a tactic, with `in`."""
PLUMBING = (
    SCOPES
    | LOCAL
    | _words("""
        module import prelude deriving initialize builtin_initialize run_cmd run_elab run_meta seal unseal
        notation notation3 infix infixl infixr prefix postfix macro macro_rules syntax elab elab_rules binder_predicate
        declare_syntax_cat declare_config_elab register_option register_simp_attr simproc dsimproc unif_hint grind_pattern
        add_decl_doc library_note suppress_compilation assert_not_exists assert_not_imported initialize_simps_projections
        compile_inductive compile_def add_aesop_rules declare_aesop_rule_sets problem_file snip blueprint_comment""")
)
"""Commands that declare nothing a proof could be learnt from."""
MODIFIERS = _words("private protected public noncomputable unsafe partial nonrec meta local scoped")
KNOWN = THEOREMS | DEFINITIONS | PLUMBING | MODIFIERS
CONTINUATIONS = _words("""
    fun by where with then else from if let have show suffices match do calc at using hiding renaming in extends return for
    unless try catch finally termination_by decreasing_by""")
"""Reserved words that never begin a command, wherever they stand."""
EXPECTANT = _words("by := => do from then else fun in at : , ← <;> · = ≠ → ↔ ∧ ∨ + - * / ^ ≤ < ≥ > $ <| |>")
"""After one of these nothing is finished, so a word at the margin goes on with it."""

CLOSERS = {"(": ")", "[": "]", "{": "}", "⟨": "⟩", "⦃": "⦄", "@[": "]", "#[": "]", "`(": ")", "`[": "]"}
"""Opening bracket -> the closing one. Between others, such as those of `|x|`, no command and no `:=` can stand."""
CLOSING = frozenset(CLOSERS.values())
