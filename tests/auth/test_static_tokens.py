"""Static tokens."""

from pathlib import Path

import pytest

from sse_broadcast.auth.principal import EVERYTHING, Action, Principal
from sse_broadcast.auth.static_tokens import MAX_TOKEN, StaticTokens
from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.errors import ConfigError
from tests.support.memory import inside
from tests.support.raising import exactly

TOKEN = "correct-horse-battery"
OTHER = "staple-0123456789ab=="


def test_the_token_of_the_server_may_do_everything(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert StaticTokens(Config(token=TOKEN)).find(TOKEN) == Principal(EVERYTHING, "token", static=True)
    assert StaticTokens(Config(token_file=f"{tmp_path}/token")).find(TOKEN) == Principal(
        EVERYTHING, "token", static=True
    )
    assert StaticTokens(Config(), generated=TOKEN).find(TOKEN) == Principal(
        EVERYTHING, "generated", static=True
    )


def test_a_caller_may_do_what_its_table_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(OTHER)
    monkeypatch.setenv("ROBOT_TOKEN", "robot-robot-robot")
    callers = (
        CallerRule(name="shop", token=TOKEN, publish=("orders.*",), subscribe=("orders.*", "news")),
        CallerRule(name="page", token_file=f"{tmp_path}/token", subscribe=("news",)),
        CallerRule(name="robot", token_env="ROBOT_TOKEN", inspect=("*",), admin=("*",)),
    )
    tokens = StaticTokens(Config(caller=callers))
    assert tokens.find(TOKEN) == Principal(
        {Action.PUBLISH: ("orders.*",), Action.SUBSCRIBE: ("orders.*", "news")}, "shop", static=True
    )
    assert tokens.find(OTHER) == Principal({Action.SUBSCRIBE: ("news",)}, "page", static=True)
    assert tokens.find("robot-robot-robot") == Principal(
        {Action.INSPECT: ("*",), Action.ADMIN: ("*",)}, "robot", static=True
    )


@pytest.mark.parametrize(
    "token", ["", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f" {TOKEN}", f"{TOKEN}\n", "\udcff", "x" * 100_000]
)
def test_an_unknown_token_has_no_caller(token: str) -> None:
    assert StaticTokens(Config(token=TOKEN)).find(token) is None


def test_without_tokens_every_token_is_unknown() -> None:
    assert StaticTokens(Config()).find("") is None


@pytest.mark.parametrize("token", ["x" * 16, "x" * MAX_TOKEN, "AZaz09-._~+/AZaz09", f"{'x' * 14}=="])
def test_a_token_has_a_limited_length_and_character_set(token: str) -> None:
    """It has 16 to 8192 characters of RFC 6750, 2.1."""
    assert StaticTokens(Config(token=token)).find(token) is not None


LENGTH = "must have 16 to 8192 characters, not {}"
CHARACTER = "contains a character other than A-Z a-z 0-9 . _ ~ + / -"


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("x" * 15, LENGTH.format(15)),
        ("x" * 8193, LENGTH.format(8193)),
        ("correct horse battery", CHARACTER),
        ("correct-horse-b\xe4ttery", CHARACTER),
        ("correct-horse-battery\n", CHARACTER),
        ("correct=horse=battery", CHARACTER),
        ("=" * 16, CHARACTER),
    ],
)
def test_a_malformed_token_is_refused_without_showing_it(token: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=exactly(f"token: {problem}")):
        StaticTokens(Config(token=token))
    with pytest.raises(ConfigError, match=exactly(f"[[caller]] 'shop': token: {problem}")):
        StaticTokens(Config(caller=(CallerRule(name="shop", token=token),)))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    with pytest.raises(ConfigError, match=exactly(f"token_file: {LENGTH.format(0)}")):
        StaticTokens(Config(token_file=f"{tmp_path}/token"))
    with pytest.raises(ConfigError, match=exactly(f"[[caller]] 'page': token: {LENGTH.format(0)}")):
        StaticTokens(Config(caller=(CallerRule(name="page", token_file=f"{tmp_path}/token"),)))


def test_a_missing_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBOT_TOKEN", raising=False)
    with pytest.raises(ConfigError) as raised:
        StaticTokens(Config(caller=(CallerRule(name="robot", token_env="ROBOT_TOKEN"),)))
    assert (
        str(raised.value)
        == "[[caller]] 'robot': token_env: the environment variable 'ROBOT_TOKEN' is not set"
    )
    with pytest.raises(ConfigError) as raised:
        StaticTokens(Config(caller=(CallerRule(name="page", token_file="/none"),)))
    assert str(raised.value) == (
        "[[caller]] 'page': token_file: '/none' cannot be read: No such file or directory"
    )


def test_two_callers_cannot_share_a_token() -> None:
    """It would not identify a caller."""
    page, shop = CallerRule(name="page", token=TOKEN), CallerRule(name="shop", token=TOKEN)
    with pytest.raises(ConfigError, match=exactly("[[caller]] 'shop': token: is also the token of 'page'")):
        StaticTokens(Config(caller=(page, shop)))
    with pytest.raises(ConfigError, match=exactly("[[caller]] 'page': token: is also the token of 'token'")):
        StaticTokens(Config(token=TOKEN, caller=(page,)))


def test_no_token_is_stored() -> None:
    """Only digests are, with a random key per process."""
    one, other = StaticTokens(Config(token=TOKEN)), StaticTokens(Config(token=TOKEN))
    assert not [text for text in inside(one, str) if TOKEN in text]
    digests = {*inside(one, bytes)}
    assert digests
    assert digests.isdisjoint([TOKEN.encode(), *inside(other, bytes)])
