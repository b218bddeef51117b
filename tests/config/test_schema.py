"""Configuration: valid values, from every source."""

from typing import Any

import msgspec
import pytest

from sse_broadcast.config.schema import (
    CallerRule,
    ChannelRule,
    Config,
    Durability,
    Endpoint,
    EventLoop,
    ListenerRule,
    LogFormat,
    LogLevel,
    Overflow,
    ProxyHeader,
)
from sse_broadcast.config.sources import RULES
from sse_broadcast.config.values import HIDDEN, format_of
from sse_broadcast.errors import ConfigError
from tests.config.refusals import PATTERN, refused

TOKEN = "a-token-of-somebody"

OWNER = "an owner: a user, user:group or :group"


def test_the_default_values() -> None:
    """An upgrade must not change them unnoticed."""
    assert msgspec.structs.asdict(Config()) == {
        "host": "127.0.0.1",
        "port": 8000,
        "certificate": "",
        "key": "",
        "token": "",
        "token_file": "",
        "anonymous_subscribe": (),
        "anonymous_publish": (),
        "anonymous_inspect": (),
        "insecure_publish": False,
        "cookie": "",
        "jwt_key_file": "",
        "jwt_jwks": "",
        "jwt_jwks_refresh": 300.0,
        "jwt_issuer": "",
        "jwt_audience": "",
        "jwt_claim": "grants",
        "token_secret": "",
        "token_secret_file": "",
        "token_lifetime": 3600.0,
        "allowed_hosts": (),
        "cors_origins": (),
        "trusted_proxies": (),
        "proxy_header": ProxyHeader.X_FORWARDED_FOR,
        "queue_size": 1000,
        "queue_bytes": 4_194_304,
        "overflow": Overflow.DISCONNECT,
        "max_event": 1_048_576,
        "max_batch": 1000,
        "max_body": 4_194_304,
        "max_channels": 100,
        "max_patterns": 10,
        "backend": "memory",
        "durability": Durability.FULL,
        "history_memory": 33_554_432,
        "history_size": 1000,
        "history_age": 3600.0,
        "history_bytes": 8_388_608,
        "history_total": 134_217_728,
        "history_channels": 131_072,
        "idempotency_window": 300.0,
        "send_buffer": 131_072,
        "write_timeout": 30.0,
        "heartbeat": 4.0,
        "retry": 3000,
        "max_connections": 0,
        "max_connections_per_address": 1000,
        "max_connections_per_token": 10_000,
        "subscribe_rate": 5000,
        "subscribe_burst": 20_000,
        "publish_rate": 5000,
        "publish_burst": 50_000,
        "subscribed_channels": 131_072,
        "lifetime": 0.0,
        "head_timeout": 10.0,
        "body_timeout": 10.0,
        "drain_delay": 0.0,
        "drain_timeout": 5.0,
        "shutdown_timeout": 3.0,
        "event_loop": EventLoop.AUTO,
        "log_level": LogLevel.INFO,
        "log_format": LogFormat.AUTO,
        "metrics": True,
        "metrics_channels": (),
        "console": True,
        "channel": (),
        "caller": (),
        "listener": (),
    }


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="prot"):
        Config(prot=1)  # type: ignore[call-arg]


def test_every_list_has_a_value_format() -> None:
    """A list of any text would accept typing errors."""
    lists = [field for field in msgspec.structs.fields(Config) if field.default == ()]
    assert [field.name for field in lists if format_of(field.type) is None] == list(RULES)


# Types are as strict in a program as in a file.


@pytest.mark.parametrize(
    ("kind", "name", "value", "complaint"),
    [
        (ChannelRule, "history_age", 0, "expected a number, at least 0.01, not 0"),
        (ChannelRule, "overflow", "none", "expected one of disconnect, drop-oldest, drop-newest, conflate"),
        (CallerRule, "publish", "a", "expected a list of texts, not 'a'"),
        (CallerRule, "token", 5, "expected text, not what is there"),
        (ListenerRule, "port", "443", "expected a whole number from 0 to 65535, not '443'"),
        (
            ListenerRule,
            "endpoints",
            (),
            "expected a list of some of subscribe, publish, inspect, admin, console",
        ),
    ],
)
def test_a_table_is_as_strict_as_the_configuration(
    kind: type[msgspec.Struct], name: str, value: Any, complaint: str
) -> None:
    good = {
        ChannelRule: {"match": "a"},
        CallerRule: {"name": "a", "token": TOKEN},
        ListenerRule: {"host": "a"},
    }
    assert refused(kind, **{**good[kind], name: value}).startswith(f"{name}: {complaint}")


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("heartbeat", 5, 5.0),
        ("overflow", "drop-oldest", Overflow.DROP_OLDEST),
        ("log_level", "debug", LogLevel.DEBUG),
        ("cors_origins", ["https://a"], ("https://a",)),
        ("channel", [ChannelRule(match="a")], (ChannelRule(match="a"),)),
        ("listener", [{"host": "[::1]", "port": 1}], (ListenerRule(host="::1", port=1),)),
    ],
)
def test_a_value_is_converted_to_the_declared_type(name: str, value: Any, kept: Any) -> None:
    """A list becomes a tuple, so that it cannot change later."""
    found = getattr(Config(**{name: value}), name)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize("name", ["host", "port", "heartbeat", "token", "overflow", "cors_origins"])
def test_none_is_refused_for_a_setting_with_a_default(name: str) -> None:
    """In a table it means the server's value."""
    assert refused(Config, **{name: None}).startswith(f"{name}: expected ")
    assert ChannelRule(match="a", overflow=None, retry=None) == ChannelRule(match="a")


@pytest.mark.parametrize(
    "table", [{"tokn": TOKEN, "name": "a"}, {"token": TOKEN, "name": "a", "publish": "b"}]
)
def test_the_error_of_a_table_has_no_secret(table: dict[str, str]) -> None:
    """This holds for any error, with the table as a mapping too."""
    said = refused(Config, caller=(table,))
    assert said.startswith("caller: expected a list of CallerRule, ")
    assert TOKEN not in said


# Contradictions.


def test_a_queue_must_hold_one_event() -> None:
    """The largest event must fit into an empty queue."""
    found = refused(Config, queue_bytes=100, max_event=101)
    assert found == "queue_bytes: 100 cannot hold one event of max_event, 101 bytes"
    assert Config(queue_bytes=100, max_event=100).queue_bytes == 100


def test_a_burst_must_allow_one_batch() -> None:
    """The largest batch must pass a full bucket, or an unlimited one."""
    found = refused(Config, publish_burst=99, max_batch=100)
    assert found == "publish_burst: 99 cannot pass one batch of max_batch, 100 events"
    assert Config(publish_burst=100, max_batch=100).publish_burst == 100
    assert Config(publish_rate=0, publish_burst=1).publish_burst == 1


def test_a_key_needs_a_certificate() -> None:
    """A key alone asks for TLS, and must not give HTTP. The certificate's file may have the key."""
    reported = "key: 'key.pem' is set without certificate"
    assert refused(Config, key="key.pem") == refused(ListenerRule, host="::1", key="key.pem") == reported
    assert Config(certificate="both.pem").key == ""


@pytest.mark.parametrize("name", ["token", "token_secret"])
def test_a_secret_is_given_once(name: str) -> None:
    """It is given as a value or as a file. The error has neither."""
    found = refused(Config, **{name: TOKEN, f"{name}_file": "/run/secrets/token"})
    assert found == f"{name} and {name}_file: set only one of them"


@pytest.mark.parametrize("name", ["token", "token_secret"])
def test_the_placeholder_of_a_secret_is_refused(name: str) -> None:
    """Everyone can read the output of `--show-config`."""
    assert refused(Config, **{name: HIDDEN}) == f"{name}: '(not shown)' stands for a secret, and is not one"
    assert "stands for a secret" in refused(CallerRule, name="shop", token=HIDDEN)


def test_no_secret_is_in_a_representation() -> None:
    """A configuration may be logged or be in a traceback."""
    caller = CallerRule(name="shop", token=TOKEN)
    config = Config(token=TOKEN, token_secret=TOKEN, caller=(caller,))
    assert repr(config) == "Config(...)"
    assert repr(caller) == "CallerRule(name='shop')"
    assert TOKEN not in f"{config} {caller} {[caller]}"
    # For rich and IPython: msgspec's own has every member.
    assert config.__rich_repr__() == []
    assert caller.__rich_repr__() == [("name", "shop")]


def test_a_url_with_a_placeholder_is_refused() -> None:
    assert "stands for a secret" in refused(Config, jwt_jwks=f"https://id.example.com/jwks?{HIDDEN}")


# Tables.


def test_a_channel_rule_needs_a_pattern() -> None:
    assert refused(ChannelRule, match="a b") == f"match: 'a b' is not {PATTERN}"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"token": TOKEN, "token_file": "f"},
        {"token": TOKEN, "token_env": "E"},
        {"token_file": "f", "token_env": "E"},
        {"token": TOKEN, "token_file": "f", "token_env": "E"},
    ],
)
def test_a_caller_has_one_token(given: dict[str, str]) -> None:
    assert (
        refused(CallerRule, name="shop", **given)
        == "'shop': set exactly one of token, token_file and token_env"
    )


@pytest.mark.parametrize("name", ["", "a b", "a\n", "é", "x" * 129])
def test_a_caller_has_a_name(name: str) -> None:
    """It must be safe to log."""
    found = refused(CallerRule, name=name, token=TOKEN)
    assert found == f"name: {name!r} is not a name: 1 to 128 of A-Z a-z 0-9 . _ @ -"


def test_callers_have_different_names() -> None:
    """A name identifies the caller to revoke."""
    callers = [CallerRule(name=name, token=TOKEN) for name in ("b", "a", "a", "b")]
    assert refused(Config, caller=tuple(callers)) == "[[caller]]: 'a' appears twice"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("mode", "0999", "mode: '0999' is not octal digits, such as \"0660\""),
        ("mode", "77", "mode: '77' is not octal digits, such as \"0660\""),
        ("mode", "4755", "mode: '4755' is not octal digits, such as \"0660\""),
        ("owner", "", f"owner: '' is not {OWNER}"),
        ("owner", ":", f"owner: ':' is not {OWNER}"),
        ("owner", "a b", f"owner: 'a b' is not {OWNER}"),
        ("owner", "a:b:c", f"owner: 'a:b:c' is not {OWNER}"),
    ],
)
def test_a_socket_has_a_mode_and_an_owner(name: str, value: str, complaint: str) -> None:
    assert refused(ListenerRule, host="unix:/run/sse.sock", **{name: value}) == complaint


@pytest.mark.parametrize("mode", ["660", "0660", "777", "000"])
@pytest.mark.parametrize("owner", ["www-data", "www-data:adm", ":adm", "10001:10001"])
def test_only_a_unix_socket_has_a_mode_and_an_owner(mode: str, owner: str) -> None:
    rule = ListenerRule(host="unix:/run/sse.sock", mode=mode, owner=owner)
    assert (rule.path, rule.mode, rule.owner) == ("/run/sse.sock", mode, owner)
    for said in ({"mode": mode}, {"owner": owner}):
        found = refused(ListenerRule, host="0.0.0.0", **said)
        assert found == "'0.0.0.0' has a mode or an owner, but is not a UNIX socket"


@pytest.mark.parametrize(
    ("rules", "twice"),
    [
        ([ListenerRule(host="::1"), ListenerRule(host="::1")], "'::1' port 8000"),
        ([ListenerRule(host="::1"), ListenerRule(host="[::1]")], "'::1' port 8000"),
        ([ListenerRule(host="unix:/a"), ListenerRule(host="unix:/a", port=1)], "'unix:/a'"),
    ],
)
def test_listeners_have_different_addresses(rules: list[ListenerRule], twice: str) -> None:
    """Otherwise only the first could listen."""
    assert refused(Config, listener=tuple(rules)) == f"[[listener]]: {twice} appears twice"


def test_several_listeners_may_use_port_0() -> None:
    for rules in (
        (ListenerRule(host="::1", port=0), ListenerRule(host="::1", port=0)),
        (ListenerRule(host="::1"), ListenerRule(host="127.0.0.1")),
    ):
        assert Config(listener=rules).listeners == rules


def test_the_plain_settings_are_one_listener() -> None:
    """It serves all endpoints, and exists if there is no table of listeners."""
    config = Config(host="::", port=443, certificate="c", key="k")
    (listener,) = config.listeners
    assert listener == ListenerRule(host="::", port=443, certificate="c", key="k")
    assert listener.endpoints == tuple(Endpoint)
    assert (listener.path, listener.mode, listener.owner) == (None, None, None)
    assert Config(host="unix:/run/sse.sock").listeners[0].path == "/run/sse.sock"


@pytest.mark.parametrize(
    ("host", "place"), [("[::1]", "::1"), ("[::]", "::"), ("::1", "::1"), ("*", "*"), ("[::1", "[::1")]
)
def test_an_address_may_be_written_as_in_a_url(host: str, place: str) -> None:
    assert ListenerRule(host=host).host == place
    assert [listener.host for listener in Config(host=host).listeners] == [place]


def test_tables_of_listeners_replace_the_plain_settings() -> None:
    rules = (
        ListenerRule(host="0.0.0.0", endpoints=(Endpoint.SUBSCRIBE,)),
        ListenerRule(host="unix:/run/sse.sock"),
    )
    assert Config(listener=rules).listeners == rules


def test_admin_is_granted_for_all_channels_only() -> None:
    with pytest.raises(ConfigError, match="admin: must be"):
        CallerRule(name="shop", token="x" * 20, admin=("orders.*",))
    assert CallerRule(name="shop", token="x" * 20, admin=("*",)).admin == ("*",)


@pytest.mark.parametrize("name", ["token", "generated"])
def test_no_caller_has_the_name_of_the_servers_own_token(name: str) -> None:
    """To revoke one would revoke the other."""
    with pytest.raises(ConfigError, match="own token"):
        CallerRule(name=name, token="x" * 20)
