"""Assembly: build services from a configuration, and keep some over a reload."""

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


def test_all_services_are_built_from_one_configuration() -> None:
    config = Config(token=STATIC, cors_origins=("https://a.example",), cookie="c", publish_rate=200)
    services = build_services(config)
    assert services.config is config
    assert services.authenticator.takes_tokens
    assert b'"name":"c"' in services.openapi
    assert services.rate_limiter.batch_size(256) == 10  # events of a twentieth of a second
    assert STATIC not in repr(build_services(Config(), generated=STATIC))


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("before", [{}, GRANTS, {"token": STATIC}])
def test_the_generated_token_ends_with_the_first_credential(
    before: dict[str, Any], credentials: dict[str, Any]
) -> None:
    assert kept_token(Config(**credentials), build_services(Config(**before), generated=MADE)) is None


@pytest.mark.parametrize(
    ("before", "after", "generated"),
    [({}, {}, None), ({}, {}, MADE), ({}, GRANTS, MADE), (GRANTS, GRANTS, MADE), (GRANTS, GRANTS, None)],
)
def test_the_generated_token_stays_without_credentials(
    before: dict[str, Any], after: dict[str, Any], generated: str | None
) -> None:
    assert kept_token(Config(**after), build_services(Config(**before), generated=generated)) == generated


@pytest.mark.parametrize("credentials", CREDENTIALS)
@pytest.mark.parametrize("after", [{}, GRANTS])
def test_the_last_credential_cannot_be_removed(credentials: dict[str, Any], after: dict[str, Any]) -> None:
    """An empty file would open the server to every program of its machine."""
    with pytest.raises(ConfigError, match=r"^token: no credential or grant is left"):
        kept_token(Config(**after), build_services(Config(**credentials, **GRANTS)))


def test_the_last_grant_cannot_be_removed() -> None:
    """Without a grant the server would be open to loopback again."""
    for generated in (MADE, None):
        with pytest.raises(ConfigError, match=r"^token: no credential or grant is left"):
            kept_token(Config(), build_services(Config(**GRANTS), generated=generated))


def test_grants_without_credentials_cannot_be_loaded() -> None:
    """A token would be generated, and a reload has no terminal to print it on."""
    with pytest.raises(ConfigError, match=r"^token: anonymous grants need a token beside them"):
        kept_token(Config(**GRANTS), build_services(Config()))
