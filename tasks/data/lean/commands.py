"""A Lean file as its commands, each with its prefix, its scope and the tokens it owns.

Lean's grammar grows with every import, so no fixed grammar can parse a file. What holds in all of them is used instead: the
words that begin a declaration or a scope are reserved, brackets nest, and a line that begins at the margin with another
word begins a command too. A word at the margin that is not known becomes a command of its own, never part of a proof.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tasks.data.lean.lexer import Kind, Lexed, is_blank, kind

THEOREMS = frozenset({"theorem", "lemma", "example", "problem"})
"""Words of declarations that state something and prove it; `problem` is that of the Compfiles collection."""
_RESERVED_DEFINITIONS = frozenset(
    {"def", "abbrev", "instance", "structure", "class", "inductive", "coinductive", "axiom", "opaque"}
)
DEFINITIONS = _RESERVED_DEFINITIONS | {"determine", "irreducible_def", "alias", "proof_wanted", "recall"}
"""Words of declarations that are no theorems."""
_SCOPES = frozenset({"namespace", "section", "end", "mutual"})
_RESERVED = frozenset({"theorem", "lemma", "example"}) | _RESERVED_DEFINITIONS | _SCOPES
_LOCAL = frozenset({"open", "set_option", "attribute", "variable", "universe", "include", "omit", "export"})
"""Commands that may also stand before another one, or before a tactic, with `in`."""
PLUMBING = (
    _SCOPES
    | _LOCAL
    | frozenset(
        "module import prelude notation notation3 infix infixl infixr prefix postfix macro macro_rules syntax elab elab_rules "
        "declare_syntax_cat declare_config_elab initialize builtin_initialize register_option register_simp_attr simproc "
        "dsimproc deriving add_decl_doc library_note run_cmd run_elab run_meta seal unseal suppress_compilation "
        "assert_not_exists assert_not_imported initialize_simps_projections compile_inductive compile_def binder_predicate "
        "unif_hint grind_pattern add_aesop_rules declare_aesop_rule_sets problem_file snip blueprint_comment".split()
    )
)
"""Commands that declare nothing a proof could be learnt from."""
_MODIFIERS = frozenset({"private", "protected", "public", "noncomputable", "unsafe", "partial", "nonrec", "meta", "local", "scoped"})
_CONTINUATIONS = frozenset(
    "fun by where with then else from if let have show suffices match do calc at using hiding renaming in termination_by "
    "decreasing_by extends return for unless try catch finally".split()
)
"""Reserved words that never begin a command, wherever they stand."""
_EXPECTANT = frozenset("by := => do from then else fun , ( ⟨ [ { ← <;> · = → ↔ ∧ ∨ + * ≤ < $ <| |>".split())
"""After one of these nothing is finished, so a word at the margin goes on with it."""
CLOSERS = {"(": ")", "[": "]", "{": "}", "⟨": "⟩", "⦃": "⦄", "@[": "]", "#[": "]", "`(": ")", "`[": "]"}
_BRACKETS = frozenset(CLOSERS) | frozenset(CLOSERS.values())


@dataclass(frozen=True)
class Command:
    """One command, as indices into the tokens of its file."""

    start: int
    """Its first token: a doc comment, attribute, modifier or `open ... in` before the keyword, or the keyword."""
    head: int
    """Its keyword; equal to `stop` when the file ends before one."""
    stop: int
    """One past the last token before the next command; blanks and comments at the end belong to nobody."""
    keyword: str
    scopes: tuple[Scope, ...]
    """The scopes around it, outermost first."""
    unbalanced: bool = False
    """Whether its brackets do not close before the next command begins."""


@dataclass(frozen=True)
class Scope:
    """What `end` closes."""

    opened_by: str
    """`namespace`, `section` or `mutual`."""
    name: str
    """One part of a dotted name; empty for none."""


def split(source: Lexed) -> list[Command]:
    """Return the commands of a file in order; what stands before the first one are blanks, comments or stray tokens."""
    starts = _Splitter(source).starts()
    commands = []
    scopes: tuple[Scope, ...] = ()
    for index, start in enumerate(starts):
        stop = starts[index + 1].token if index + 1 < len(starts) else len(source.tokens)
        keyword = source.tokens[start.head] if start.head < stop else ""
        if kind_of_block := _module_doc(keyword):
            keyword = kind_of_block
        commands.append(Command(start.token, min(start.head, stop), stop, keyword, scopes, start.unbalanced))
        scopes = _scopes_after(source, commands[-1])
    return commands


def code_after(source: Lexed, index: int, stop: int) -> Iterator[int]:
    """Yield the indices from `index` to before `stop` of tokens that are neither blanks nor comments."""
    tokens = source.tokens
    return (i for i in range(index, stop) if not is_blank(tokens[i]))


def code_before(source: Lexed, index: int) -> int:
    """Return the index of the last token before `index` that is neither blank nor comment, or -1."""
    index -= 1
    while index >= 0 and is_blank(source.tokens[index]):
        index -= 1
    return index


def full_name(scopes: Sequence[Scope], name: str) -> str:
    """Return the name that a declaration called `name` in these scopes has outside of them."""
    if name.startswith("_root_."):
        return name.removeprefix("_root_.")
    return ".".join([scope.name for scope in scopes if scope.opened_by == "namespace"] + [name])


def name_parts(name: str) -> list[str]:
    """Split a dotted name at its dots, not at those within « and »."""
    parts = [""]
    for piece in name.split("."):
        if parts[-1].startswith("«") and not parts[-1].endswith("»"):
            parts[-1] += "." + piece
        else:
            parts.append(piece)
    return parts[1:]


@dataclass
class _Start:
    token: int
    head: int
    unbalanced: bool = False
    at_margin: bool = False
    """Whether the body's own lines begin at the margin, so that words there begin no command."""


@dataclass
class _Splitter:
    """One pass over the tokens that can matter: brackets, keywords, and what stands first on a line."""

    source: Lexed
    found: list[_Start] = field(default_factory=list)
    open_brackets: list[str] = field(default_factory=list)
    attributes: dict[int, int] = field(default_factory=dict)
    """Index of the `]` of each attribute list -> index of its `@[`."""
    locals_seen: list[int] = field(default_factory=list)
    """Indices of words like `open` outside brackets."""

    def starts(self) -> list[_Start]:
        """Return where each command begins and its keyword stands."""
        tokens = self.source.tokens
        margin = self._margin()
        watched = _BRACKETS | _RESERVED | _LOCAL
        indices = sorted({i for i, token in enumerate(tokens) if token in watched}.union(margin, self.source.blocks))
        opened: list[int] = []
        for index in indices:
            token = tokens[index]
            if self._begins(index, index in margin):
                opened.clear()
                self._begin(index)
            if token in CLOSERS:
                opened.append(index)
                self.open_brackets.append(token)
            elif token in _BRACKETS:
                self._close(index, opened)
        self._begin_at_the_end()
        return [start for start in self.found if self._is_command(start)]

    def _margin(self) -> set[int]:
        """Return the indices of the tokens that stand first on a line, at its very beginning."""
        tokens = self.source.tokens
        margin = {i for i, token in enumerate(tokens, start=1) if token[-1] == "\n" and i < len(tokens)}
        return margin | {0} if tokens else margin

    def _close(self, index: int, opened: list[int]) -> None:
        """Close the innermost bracket that `index` can close, and what stayed open within it; a stray closer is passed over."""
        token = self.source.tokens[index]
        if token not in (CLOSERS[bracket] for bracket in self.open_brackets):
            return
        while CLOSERS[self.open_brackets.pop()] != token:
            opened.pop()
        at = opened.pop()
        if self.source.tokens[at] == "@[":
            self.attributes[index] = at

    def _begins(self, index: int, at_margin: bool) -> bool:
        """Whether the token begins a command or is its keyword."""
        token = self.source.tokens[index]
        if self.open_brackets:
            return at_margin and token in _RESERVED and not {"`(", "`["} & set(self.open_brackets) and self._stands_alone(index)
        if token in _LOCAL:
            self.locals_seen.append(index)
        if token in _RESERVED:
            return self._stands_alone(index)
        if token.startswith("/-!"):
            return True
        if at_margin:
            return self._begins_at_margin(index, token)
        return token in _LOCAL and not (self._in_declaration() and self._leads_to_in(index))

    def _begins_at_margin(self, index: int, token: str) -> bool:
        if token in ("@[",) or token.startswith("/--"):
            return True
        if token in _CONTINUATIONS or (kind(token) is not Kind.NAME and not (token[0] == "#" and len(token) > 1)):
            return False
        if token in DEFINITIONS or token in PLUMBING or token in THEOREMS or token in _MODIFIERS or not self.found:
            return True
        body = self.found[-1]
        before = code_before(self.source, index)
        if self._in_declaration() and before >= 0 and self.source.tokens[before] in _EXPECTANT:
            body.at_margin = True
        return not body.at_margin

    def _stands_alone(self, index: int) -> bool:
        """Whether a reserved word is a command's, not `deriving instance`, `.end`, `snip end` or the like."""
        before = code_before(self.source, index)
        return before < 0 or self.source.tokens[before] not in (".", "deriving", "snip", "#print")

    def _in_declaration(self) -> bool:
        tokens = self.source.tokens
        if not self.found or self.found[-1].head >= len(tokens):
            return False
        keyword = tokens[self.found[-1].head]
        return keyword in THEOREMS or keyword in DEFINITIONS

    def _leads_to_in(self, index: int) -> bool:
        """Whether `open`, `set_option` and their like end in `in`, so that inside a proof they belong to a tactic or term."""
        for i in code_after(self.source, index + 1, len(self.source.tokens)):
            token = self.source.tokens[i]
            if token == "in":
                return True
            if token in _RESERVED or token in _LOCAL or token == ":=":
                return False
        return False

    def _begin(self, index: int) -> None:
        """Note a command whose keyword, or first token, is `index`; it takes in the prefix that stands before it."""
        unbalanced = bool(self.open_brackets)
        self.open_brackets.clear()
        if unbalanced and self.found:
            self.found[-1].unbalanced = True
        token = self._prefix(index)
        while self.found and self.found[-1].token >= token:
            self.found.pop()
        self.found.append(_Start(token, self._head(index)))

    def _begin_at_the_end(self) -> None:
        """Note a prefix that the file ends in, so that it does not pass for part of the declaration before it."""
        end = len(self.source.tokens)
        if self._prefix(end) < end and not self.open_brackets:
            self._begin(end)
        elif self.open_brackets and self.found:
            self.found[-1].unbalanced = True

    def _prefix(self, index: int) -> int:
        """Return where the prefix of the keyword at `index` begins: docs, attributes, modifiers, `open ... in`."""
        tokens = self.source.tokens
        first = index
        while (before := code_before(self.source, first)) >= 0:
            token = tokens[before]
            if token in self.attributes_end and before in self.attributes:
                first = self.attributes[before]
            elif token in _MODIFIERS or token.startswith("/--") or (token == "class" and first == index):
                first = before
            elif token == "in" and (at := bisect_left(self.locals_seen, before)):
                first = self.locals_seen[at - 1]
            else:
                break
        return first

    attributes_end = frozenset({"]"})

    def _head(self, index: int) -> int:
        """Return the keyword of the command that begins at `index`, passing over its prefix."""
        tokens, depth = self.source.tokens, 0
        for i in code_after(self.source, index, len(tokens)):
            token = tokens[i]
            if token == "@[" or (depth and token in CLOSERS):
                depth += 1
            elif depth:
                depth -= token in _BRACKETS
            elif not (token in _MODIFIERS or token.startswith("/--")):
                return i
        return len(tokens)

    def _is_command(self, start: _Start) -> bool:
        """Whether what was taken for a command has a word for a keyword; else it goes on with the one before it."""
        if start.head >= len(self.source.tokens):
            return True
        keyword = self.source.tokens[start.head]
        return kind(keyword) in (Kind.NAME, Kind.MODULE_DOC) or keyword[0] == "#"


def _module_doc(keyword: str) -> str:
    return "/-!" if keyword.startswith("/-!") else ""


def _scopes_after(source: Lexed, command: Command) -> tuple[Scope, ...]:
    """Return the scopes open after a command. `end` closes as many as its name has parts; a wrong name closes what it can."""
    scopes = command.scopes
    if command.keyword not in _SCOPES:
        return scopes
    rest = [source.tokens[i] for i in code_after(source, command.head + 1, command.stop)]
    parts = name_parts(rest[0]) if rest and kind(rest[0]) is Kind.NAME else [""]
    if command.keyword == "end":
        return scopes[: max(0, len(scopes) - len(parts))]
    return scopes + tuple(Scope(command.keyword, part) for part in parts)
