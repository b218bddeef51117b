"""Which credentials are asked for."""

import pytest

from sse_broadcast.auth.principal import Action
from sse_broadcast.server.openapi.security import SecuritySchemes


@pytest.mark.parametrize("action", Action)
def test_an_open_server_asks_for_none(action: Action) -> None:
    terms = SecuritySchemes(cookie="session")
    assert terms.security(action) is None
    assert terms.schemes() == {}


def test_a_token_in_a_query_is_for_streams_alone() -> None:
    """Elsewhere it would be in the logs of everything in between for nothing."""
    terms = SecuritySchemes(secured=True)
    assert list(terms.schemes()) == ["bearer", "query"]
    assert terms.security(Action.SUBSCRIBE) == [{"bearer": ()}, {"query": ()}]
    assert terms.security(Action.PUBLISH) == [{"bearer": ()}]


def test_the_cookie_goes_by_its_configured_name() -> None:
    """It is a place for a token wherever there is one."""
    terms = SecuritySchemes(secured=True, cookie="session")
    assert terms.schemes()["cookie"]["name"] == "session"
    assert terms.security(Action.ADMIN) == [{"bearer": ()}, {"cookie": ()}]


def test_what_anyone_may_do_needs_none() -> None:
    """An empty requirement is one of the alternatives."""
    terms = SecuritySchemes(secured=True, anonymous=[Action.PUBLISH])
    assert terms.security(Action.PUBLISH) == [{}, {"bearer": ()}]
    assert terms.security(Action.INSPECT) == [{"bearer": ()}]
