"""What follows from a configuration, and what of it outlives another one."""

from typing import Any

import pytest

from sse_broadcast.config.schema import Config
from sse_broadcast.errors import ConfigError
from sse_broadcast.server.assembly import build_services, kept_token
from tests.support.credentials import STATIC, caller

MADE = "the-token-that-was-made-at-the-start"
CREDENTIALS: tuple[dict[str, Any], ...] = (
    {"token": STATIC},
    {"caller": (caller("a"),)},
    {"token_secret": "x" * 40},
)
GRANTS: dict[str, Any] = {"anonymous_subscribe": ("a",)}


def test_everything_follows_from_one_configuration() -> None:
    config = Config(token=STATIC, cors_origins=("https://a.example",), cookie="c", publish_rate=200)
    services = build_services(config)
    assert services.config is config
    assert services.authenticator.takes_tokens
    assert b'"name":"c"' in services.openapi
    assert services.rate_limiter.batch_size(256) == 10  # a twentieth of a second's
    assert STATIC not in repr(build_services(Config(), generated=STATIC))


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("before", [{}, GRANTS, {"token": STATIC}])
def test_the_token_that_was_made_ends_with_the_first_credential(
    before: dict[str, Any], credentials: dict[str, Any]
) -> None:
    assert kept_token(Config(**credentials), build_services(Config(**before), generated=MADE)) is None


@pytest.mark.parametrize(
    ("before", "after", "generated"),
    [({}, {}, None), ({}, {}, MADE), ({}, GRANTS, MADE), (GRANTS, GRANTS, MADE), (GRANTS, GRANTS, None)],
)
def test_it_is_kept_as_long_as_there_is_none(
    before: dict[str, Any], after: dict[str, Any], generated: str | None
) -> None:
    assert kept_token(Config(**after), build_services(Config(**before), generated=generated)) == generated


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("after", [{}, GRANTS])
def test_the_last_credential_is_not_taken_away(credentials: dict[str, Any], after: dict[str, Any]) -> None:
    """An empty file would open the server to this machine."""
    with pytest.raises(ConfigError, match=r"^token: no credential or grant is left"):
        kept_token(Config(**after), build_services(Config(**credentials, **GRANTS)))


def test_the_last_grant_is_not_taken_away_either() -> None:
    """It is what closes the loopback."""
    for generated in (MADE, None):
        with pytest.raises(ConfigError, match=r"^token: no credential or grant is left"):
            kept_token(Config(), build_services(Config(**GRANTS), generated=generated))


def test_grants_alone_do_not_lock_everyone_out() -> None:
    """A token would have to be made, and there is nowhere to show it."""
    with pytest.raises(ConfigError, match=r"^token: anonymous grants need a token beside them"):
        kept_token(Config(**GRANTS), build_services(Config()))
