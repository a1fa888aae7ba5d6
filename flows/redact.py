"""Secrets that came in by the environment go nowhere: not into a log, a state, an artifact or an error text.

A program may print anything, its whole environment included. So every line that a stage says passes here before anybody keeps it,
and every message of ours that quotes something from outside does too.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote, urlsplit

NAMES = re.compile(r"(^|_)(KEY|APIKEY|SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|PASS|CREDENTIALS?|AUTH|AUTH_STRING)(_|$)", re.I)
"""Names of variables that hold a secret."""
PLACES = re.compile(r"(PATH|FILE|DIR|SOCK|URL)$", re.I)
"""Names of variables that say where something is; a password in such an address is a secret all the same."""
SHORTEST = 8
"""Letters of the shortest secret: a shorter one would blot out ordinary words."""
ADDRESS = re.compile(r"(\w[\w+.-]*://)[^\s/@:'\"]*:[^\s/@'\"]+@")
"""A user and a password in an address."""
MASK = "***"


def redacted(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return `text` with every secret of `environ`, and every user with a password in an address, blotted out."""
    for secret in secrets(environ):
        text = text.replace(secret, MASK)
    return ADDRESS.sub(rf"\1{MASK}@", text)


def secrets(environ: Mapping[str, str]) -> list[str]:
    """Return what has to be blotted out, in every form in which a program prints it, the longest first."""
    found = {form for value in _values(environ) for form in _forms(value)}
    return sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True)


def _values(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if NAMES.search(name) and not PLACES.search(name):
            yield value
            yield value.partition(":")[2]  # of user:password
            yield from value.splitlines()
            if ":" in value:
                yield base64.b64encode(value.encode()).decode()  # as basic authentication sends it
        if "://" in value and (password := _password(value)):
            yield password
            yield unquote(password)


def _password(address: str) -> str | None:
    try:
        return urlsplit(address).password
    except ValueError:
        return None


def _forms(secret: str) -> tuple[str, ...]:
    return secret, quote(secret, safe=""), json.dumps(secret)[1:-1]
