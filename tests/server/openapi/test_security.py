"""Security schemes of the OpenAPI document."""

import pytest

from sse_broadcast.auth.principal import Action
from sse_broadcast.server.openapi.security import SecuritySchemes


@pytest.mark.parametrize("action", Action)
def test_an_open_server_requires_no_credential(action: Action) -> None:
    terms = SecuritySchemes(cookie="session")
    assert terms.security(action) is None
    assert terms.schemes() == {}


def test_a_token_in_the_query_is_for_streams_only() -> None:
    """Elsewhere it would only end up in the logs of proxies."""
    terms = SecuritySchemes(secured=True)
    assert list(terms.schemes()) == ["bearer", "query"]
    assert terms.security(Action.SUBSCRIBE) == [{"bearer": ()}, {"query": ()}]
    assert terms.security(Action.PUBLISH) == [{"bearer": ()}]


def test_the_cookie_has_its_configured_name() -> None:
    """The cookie is an alternative at each operation with a token."""
    terms = SecuritySchemes(secured=True, cookie="session")
    assert terms.schemes()["cookie"]["name"] == "session"
    assert terms.security(Action.ADMIN) == [{"bearer": ()}, {"cookie": ()}]


def test_anonymous_permissions_need_no_credential() -> None:
    """The empty requirement is one of the alternatives."""
    terms = SecuritySchemes(secured=True, anonymous=[Action.PUBLISH])
    assert terms.security(Action.PUBLISH) == [{}, {"bearer": ()}]
    assert terms.security(Action.INSPECT) == [{"bearer": ()}]
