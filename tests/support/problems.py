"""What is raised for a request that is refused."""

import contextlib
from collections.abc import Iterator

import pytest

from sse_broadcast.server.http.problem import Problem


@contextlib.contextmanager
def refused(status: int, detail: str, *, closes: bool | None = None) -> Iterator[None]:
    """See that what is done inside raises a problem of this status and detail, word for word."""
    with pytest.raises(Problem) as raised:
        yield
    assert (raised.value.status, raised.value.detail) == (status, detail)
    assert closes is None or raised.value.closes is closes
