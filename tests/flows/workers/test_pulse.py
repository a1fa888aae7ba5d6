"""Silence counts only while one looks; a server that is away is waited for, one that refuses is not."""

import httpx
import pytest

from flows.workers import pulse
from flows.workers.pulse import BEATS, Pulse, patiently


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand; sleeping moves it."""
    now = [100.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pulse.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_silence_grows_until_the_value_changes(clock):
    heart = Pulse(60)
    assert heart.see(1) == 0
    for seconds in (2, 4):
        clock[0] += 2
        assert heart.see(1) == seconds
    clock[0] += 2
    assert heart.see(2) == 0


def test_who_slept_himself_blames_nobody(clock):
    heart = Pulse(60)
    heart.see(1)
    clock[0] += 3600
    assert heart.see(1) == 60 / BEATS


def status(code: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://here")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(code, request=request))


@pytest.mark.parametrize("error", [httpx.ConnectError("gone"), httpx.ReadTimeout("late"), status(503)])
def test_a_server_that_is_away_is_asked_again(clock, error):
    answers = [error, error, None]

    def call():
        if answer := answers.pop(0):
            raise answer
        return "told"

    assert patiently(call) == "told"


def test_a_refusal_is_told_at_once(clock):
    with pytest.raises(httpx.HTTPStatusError):
        patiently(lambda: (_ for _ in ()).throw(status(404)))
    assert clock[0] == 100


def test_a_server_that_stays_away_is_given_up(clock):
    with pytest.raises(httpx.ConnectError):
        patiently(lambda: (_ for _ in ()).throw(httpx.ConnectError("gone")), outage=60)
    assert 160 <= clock[0] <= 162
