"""Lean's tokens once more, one character at a time and by recursion: slow, simple, and sharing nothing with the lexer.

Written after the rules of Lean's own parser: what is white space, what a comment is, how a string, a character, a name and a
number end. Symbols are cut into single characters, since Lean's table of symbols grows with every import.
"""


def tokens(text: str) -> list[str]:
    """Return the tokens of a text, symbols as single characters."""
    found, position = [], 0
    while position < len(text):
        end = token_end(text, position)
        found.append(text[position:end])
        position = end
    return found


def token_end(text: str, start: int) -> int:
    """Return where the token that begins at `start` ends."""
    here, after = text[start], text[start + 1 : start + 2]
    if here in " \t\r\n":
        return while_in(text, start, lambda character: character in " \t\r\n")
    if here == "-" and after == "-":
        return while_in(text, start, lambda character: character != "\n")
    if here == "/" and after == "-":
        return comment_end(text, start + 3)
    if here == '"':
        return string_end(text, start + 1, holes=marked(text, start))
    if here == after == "'":
        return start + 2  # the image of a set, f '' s
    if here == "'" and not (start and is_operator(text[start - 1])):
        return character_end(text, start)
    hashes = while_in(text, start + 1, lambda character: character == "#") - start - 1
    if here == "r" and text.startswith('"', start + 1 + hashes):
        end = text.find('"' + "#" * hashes, start + hashes + 2)
        return len(text) if end < 0 else end + hashes + 1
    if here == "`":
        quoted = start + (2 if after == "`" else 1)
        return name_end(text, quoted) if is_first(text[quoted : quoted + 1]) else start + 1
    if here == "#":
        return while_in(text, start + 1, lambda character: character == "_" or "a" <= character <= "z")  # #eval
    if is_first(here):
        return name_end(text, start)
    return number_end(text, start) if here in "0123456789" else start + 1


def comment_end(text, position):
    depth = 1
    while position < len(text):
        pair = text[position : position + 2]
        depth += (pair == "/-") - (pair == "-/")
        position += 2 if pair in ("/-", "-/") else 1
        if depth == 0:
            return position
    return len(text)


def marked(text, quote):
    before = text[max(0, quote - 40) : quote].rstrip(" ")
    words = ("throwError", "logInfo", "logWarning", "logError", "dbg_trace")
    return before.endswith(words) or (before.endswith("!") and before[-2:-1].isascii() and before[-2:-1].isalpha())


def string_end(text, position, holes):
    while position < len(text):
        if text[position] == "\\":
            position += 2
        elif text[position] == '"':
            return position + 1
        elif text[position] == "{" and holes:
            position = hole_end(text, position + 1)
        else:
            position += 1
    return len(text)


def hole_end(text, position):
    while position < len(text):
        if text[position] == "}":
            return position + 1
        position = hole_end(text, position + 1) if text[position] == "{" else token_end(text, position)
    return len(text)


def character_end(text, start):
    body = text[start + 1 : start + 2]
    if body == "'" or body == "" or body == "\n":
        return start + 1
    length = 1
    if body == "\\":
        escape = text[start + 2 : start + 3]
        length = {"x": 4, "u": 6}.get(escape, 2)
        digits = text[start + 3 : start + 1 + length]
        if not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            return start + 1
    end = start + 1 + length
    return end + 1 if text[end : end + 1] == "'" else start + 1


def name_end(text, position):
    if text[position] == "«":
        position = while_in(text, position + 1, lambda character: character not in "«»\n")
        position += text[position : position + 1] == "»"
    else:
        position = while_in(text, position, is_rest)
    if text[position : position + 1] == "." and is_first(text[position + 1 : position + 2]):
        return name_end(text, position + 1)
    return position


def number_end(text, start):
    if text[start] == "0" and text[start + 1 : start + 2] in ("x", "X"):
        end = while_in(text, start + 2, lambda character: character in "0123456789abcdefABCDEF_")
        return end if end > start + 2 else start + 1
    end = while_in(text, start, lambda character: character in "0123456789_")
    if text[end : end + 1] == "." and text[end + 1 : end + 2] in set("0123456789"):
        end = while_in(text, end + 1, lambda character: character in "0123456789_")
    return end


def while_in(text, position, accepts):
    while position < len(text) and accepts(text[position]):
        position += 1
    return position


def is_operator(character):
    """Whether a prime behind it belongs to it, as in ⁻¹' and ∑'."""
    return not character.isascii() and character not in "⟨⟪⦃⟦‹←→↦·"


def is_letter(character):
    code = ord(character)
    greek = (0x391 <= code <= 0x3A9 or 0x3B1 <= code <= 0x3FB) and character not in "ΠΣλ"
    latin = 0xC0 <= code <= 0x17F and code not in (0xD7, 0xF7)
    other = 0x1F00 <= code <= 0x1FFE or 0x2100 <= code <= 0x214F or 0x1D49C <= code <= 0x1D59F
    return (character.isascii() and character.isalpha()) or greek or latin or other


def is_first(character):
    return character != "" and (character in "_«" or is_letter(character))


def is_rest(character):
    code = ord(character)
    subscript = 0x2080 <= code <= 0x2089 or 0x2090 <= code <= 0x209C or 0x1D62 <= code <= 0x1D6A or code == 0x2C7C
    return is_letter(character) or character in "_'!?0123456789" or subscript
