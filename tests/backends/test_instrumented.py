"""Calls of a backend, and those that fail."""

import inspect
from typing import Any, cast

import pytest

from sse_broadcast.backends.base import CALLS, Backend, IdempotencyKey
from sse_broadcast.backends.instrumented import InstrumentedBackend
from sse_broadcast.backends.memory.backend import MemoryBackend, open_memory
from sse_broadcast.channels import Selector
from sse_broadcast.config.policy import ChannelPolicies
from sse_broadcast.config.schema import Config
from sse_broadcast.cursor import Keyword
from sse_broadcast.errors import IdempotencyError
from sse_broadcast.event import Event
from sse_broadcast.metrics import Metrics
from sse_broadcast.publication import Draft
from sse_broadcast.work_queue import SlicedWork, run_to_completion

A = Selector.parse("a")
DRAFTS = [Draft(("a",), Event("x"))]

ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "publish": ((DRAFTS,), {}),
    "find": ((Keyword.EARLIEST, A), {}),
    "replay": ((A,), {"after": 0, "evictions_seen": 0, "limit": 1}),
    "replayable": ((A,), {"after": 0}),
    "oldest": ((A,), {"after": 0}),
    "tidy": ((), {}),
    "relimit": ((), {}),
    "holding": (("a",), {}),
    "channels": ((), {}),
    "extent": ((), {}),
    "remove": ((99,), {}),
    "clear": (("none",), {}),
}


METHODS = {
    "tidy": "evict_expired",
    "relimit": "reload_limits",
    "holding": "channel_usage",
    "extent": "usage",
}
"""Calls that metrics name otherwise than the contract does."""


def method_of(call: str) -> str:
    return METHODS.get(call, call)


def counted() -> tuple[InstrumentedBackend[MemoryBackend], Metrics]:
    config, metrics = Config(), Metrics()
    return InstrumentedBackend(open_memory(config, ChannelPolicies(config), len), metrics), metrics


async def ask(backend: Backend, call: str) -> Any:
    arguments, words = ARGUMENTS[call]
    answer = getattr(backend, method_of(call))(*arguments, **words)
    if call == "channels":
        return list(answer)
    if inspect.isgenerator(answer):
        return run_to_completion(cast("SlicedWork[Any]", answer))
    return await answer if inspect.isawaitable(answer) else answer


def test_every_call_of_a_backend_has_a_name() -> None:
    """One that the contract gets later is counted as well."""
    methods = {name for name, each in vars(Backend).items() if inspect.isfunction(each) and name[0] != "_"}
    assert methods == set(map(method_of, CALLS))
    assert set(CALLS) == set(ARGUMENTS)


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_is_passed_on_and_counted(call: str) -> None:
    """The answer is the backend's own."""
    backend, metrics = counted()
    await ask(backend.inner, "publish")
    expected = await ask(backend.inner, call)
    found = await ask(backend, call)
    if call == "publish":
        found, expected = (found.count, found.channels), (expected.count, expected.channels)
    assert found == expected
    assert metrics.backend_calls == {call: 1}
    assert metrics.backend_errors == {}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_fails_is_counted_and_raised(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked is to know."""
    backend, metrics = counted()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("away")

    monkeypatch.setattr(backend.inner, method_of(call), fail)
    with pytest.raises(OSError, match="away"):
        await ask(backend, call)
    assert (metrics.backend_calls, metrics.backend_errors) == ({call: 1}, {call: 1})


async def test_a_key_that_was_used_before_is_no_failure() -> None:
    """It is what the publisher is told."""
    backend, metrics = counted()
    await backend.publish(DRAFTS, IdempotencyKey(("k",), b"one"))
    with pytest.raises(IdempotencyError):
        await backend.publish(DRAFTS, IdempotencyKey(("k",), b"other"))
    assert (metrics.backend_calls, metrics.backend_errors) == ({"publish": 2}, {})


async def test_what_a_backend_says_of_itself_is_passed_on() -> None:
    """And is no call."""
    backend, metrics = counted()
    await backend.inner.publish(DRAFTS)
    assert (backend.epoch, backend.position, backend.outage) == (backend.inner.epoch, 1, None)
    assert metrics.backend_calls == {}
