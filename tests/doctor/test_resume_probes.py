"""Probes of resuming and of caches; with real proxies in test_examination.py."""

import pytest

from sse_broadcast.doctor.connection import ProbeConnection
from sse_broadcast.doctor.findings import Fault, Level
from sse_broadcast.doctor.resume_probes import hit_marks, probe_cache, probe_resume
from sse_broadcast.server.runner import Server
from tests.support import scripted
from tests.support.scripted import OPENED, Held, Speak, plain

speak = pytest.fixture(scripted.speak)

PUBLISHED = plain("200 OK", "application/json", '{"status": "sent", "clients": 1, "id": "a-1"}')


async def test_the_server_itself_resumes_and_has_no_cache(server: Server) -> None:
    async with ProbeConnection(server.url) as connection:
        found = [await probe_resume(connection, "x"), await probe_cache(connection, "y")]
    assert [each.level for each in found] == [Level.OK, Level.OK]


async def test_a_second_stream_like_the_first_is_a_cache_s(speak: Speak) -> None:
    script = await speak(Held(OPENED), PUBLISHED, Held(OPENED))
    async with ProbeConnection(script.url) as connection:
        assert (await probe_cache(connection, "x")).fault is Fault.CACHE


async def test_a_second_stream_that_waits_is_too(speak: Speak) -> None:
    script = await speak(Held(OPENED), PUBLISHED, Held(b""))
    async with ProbeConnection(script.url, patience=0.1) as connection:
        found = await probe_cache(connection, "x")
    assert found.seen == "a second subscriber of an address gets nothing while the first is there"


async def test_publishes_without_an_id_cannot_be_resumed_after(speak: Speak) -> None:
    script = await speak(plain("200 OK", "text/plain", "ok"), b"")
    async with ProbeConnection(script.url) as connection:
        assert (await probe_resume(connection, "x")).level is Level.SKIPPED


@pytest.mark.parametrize(
    ("headers", "marks"),
    [
        ({"x-cache": "HIT from x"}, ["x-cache: HIT from x"]),
        ({"cf-cache-status": "HIT"}, ["cf-cache-status: HIT"]),
        ({"cf-cache-status": "DYNAMIC"}, []),
        ({"x-cache": "Miss from cloudfront"}, []),
        ({"x-cache-status": "MISS"}, ["x-cache-status: MISS"]),
        ({"age": "12"}, ["age: 12"]),
        ({"age": "0"}, []),
    ],
)
def test_caches_say_whether_an_answer_was_theirs(headers: dict[str, str], marks: list[str]) -> None:
    assert hit_marks(headers) == marks
