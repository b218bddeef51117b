"""Sources of settings: files, variables and flags, and their errors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from sse_broadcast.config.schema import (
    CallerRule,
    ChannelRule,
    Config,
    Endpoint,
    EventLoop,
    ListenerRule,
    LogLevel,
    Overflow,
)
from sse_broadcast.config.sources import (
    PLACE,
    RESTART_ONLY,
    RULES,
    SETTINGS,
    ConfigChange,
    LoadedConfig,
    change_of,
    load,
    unknown_variables,
)
from sse_broadcast.config.values import is_secret
from sse_broadcast.errors import ConfigError

PORT = "expected a whole number from 0 to 65535"
COUNT = "expected a whole number, at least 0"
SECONDS = "expected a number of seconds from 0.01 to 86400"
HOST = "an address, * for every address, or unix: and a path"
ORIGIN = (
    "an origin as browsers send it, such as https://example.com, http://localhost:3000,"
    " https://*.example.com or capacitor://localhost"
)
POLICIES = "expected one of disconnect, drop-oldest, drop-newest, conflate"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refused(
    *,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ=environ or {}, file=file)
    return str(caught.value)


def test_without_sources_the_defaults_apply() -> None:
    assert load({}, environ={}) == LoadedConfig(Config(), dict.fromkeys(SETTINGS, "default"))


@pytest.mark.parametrize("name", SETTINGS)
def test_every_default_is_valid(name: str) -> None:
    setting = SETTINGS[name]
    assert setting.accept(setting.default, "here") == setting.default


def test_a_flag_precedes_the_variable_the_file_and_the_default(file: Path) -> None:
    file.write_text("queue_size = 1\nmax_event = 2\nretry = 3\n")
    environ = {"SSE_BROADCAST_QUEUE_SIZE": "4", "SSE_BROADCAST_MAX_EVENT": "5"}
    loaded = load({"queue_size": "6", "retry": None}, environ=environ, file=file)
    assert loaded.config == Config(queue_size=6, max_event=5, retry=3)
    assert loaded.sources == dict.fromkeys(SETTINGS, "default") | {
        "queue_size": "--queue-size",
        "max_event": "SSE_BROADCAST_MAX_EVENT",
        "retry": str(file),
    }


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is `os.environ` unless another is passed."""
    monkeypatch.setenv("SSE_BROADCAST_RETRY", "7")
    assert load({}).config.retry == 7


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "::1", "::1"),
        ("host", "8", "8"),
        ("port", "9", 9),
        ("heartbeat", "2", 2.0),
        ("heartbeat", "0.25", 0.25),
        ("overflow", "drop-oldest", Overflow.DROP_OLDEST),
        ("event_loop", "uvloop", EventLoop.UVLOOP),
        ("log_level", "debug", LogLevel.DEBUG),
        ("anonymous_subscribe", "news", ("news",)),
        ("anonymous_subscribe", "news,orders.*", ("news", "orders.*")),
        ("anonymous_subscribe", " news , orders.*, ", ("news", "orders.*")),
        ("cors_origins", "https://a.example,http://b:3000", ("https://a.example", "http://b:3000")),
        ("trusted_proxies", "unix,10.0.0.0/8,::1", ("unix", "10.0.0.0/8", "::1")),
        ("allowed_hosts", "", ()),
        ("insecure_publish", "true", True),
        ("insecure_publish", "1", True),
        ("insecure_publish", "false", False),
        ("insecure_publish", "0", False),
    ],
)
def test_text_is_converted_to_the_settings_type(name: str, text: str, value: object) -> None:
    setting = SETTINGS[name]
    by_flag = load({name: text}, environ={}).config
    by_variable = load({}, environ={setting.variable: text}).config
    for config in (by_flag, by_variable):
        found = getattr(config, name)
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("heartbeat = 2", 2.0),
        ('overflow = "drop-newest"', Overflow.DROP_NEWEST),
        ("port = 0", 0),
        ('anonymous_publish = ["a", "b.*"]', ("a", "b.*")),
        ("anonymous_publish = []", ()),
        ("insecure_publish = true", True),
        ("insecure_publish = false", False),
    ],
)
def test_a_file_has_typed_values(file: Path, line: str, value: object) -> None:
    """Their types are TOML's. A whole number is valid for a number of seconds."""
    file.write_text(line + "\n")
    name = line.partition(" ")[0]
    assert getattr(load({}, environ={}, file=file).config, name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("port", "65536", f"{PORT}, not '65536'"),
        ("port", "-1", f"{PORT}, not '-1'"),
        ("port", "http", f"{PORT}, not 'http'"),
        ("port", "", f"{PORT}, not ''"),
        ("queue_size", "0", "expected a whole number, at least 1, not '0'"),
        ("queue_size", "1.5", "expected a whole number, at least 1, not '1.5'"),
        (
            "send_buffer",
            "2147483648",
            "expected a whole number of bytes from 0 to 2147483647, not '2147483648'",
        ),
        ("heartbeat", "4s", f"{SECONDS}, not '4s'"),
        ("heartbeat", "0", f"{SECONDS}, not '0'"),
        ("heartbeat", "nan", f"{SECONDS}, not 'nan'"),
        ("heartbeat", "inf", f"{SECONDS}, not 'inf'"),
        ("insecure_publish", "yes", "expected true or false, not 'yes'"),
        ("insecure_publish", "", "expected true or false, not ''"),
        ("overflow", "Drop", "expected one of disconnect, drop-oldest, drop-newest, conflate, not 'Drop'"),
        ("event_loop", "trio", "expected one of auto, asyncio, uvloop, not 'trio'"),
        ("log_level", "INFO", "expected one of debug, info, warning, error, not 'INFO'"),
        (
            "anonymous_inspect",
            "news,a b",
            "'a b' is not a channel or a pattern: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ - *",
        ),
        ("cors_origins", "https://a,https://b/", f"'https://b/' is not {ORIGIN}"),
        ("allowed_hosts", "A", "'A' is not a host name in lower case, without a port"),
        ("trusted_proxies", "x", "'x' is not an address, a network such as 10.0.0.0/8, or unix"),
        ("cookie", "a b", "'a b' is not the name of a cookie"),
        ("jwt_claim", "", "'' is not the name of a claim"),
        ("host", "unix:", f"'unix:' is not {HOST}"),
    ],
)
def test_the_error_of_a_value_has_its_flag_or_variable(name: str, text: str, expected: str) -> None:
    setting = SETTINGS[name]
    assert refused(flags={name: text}) == f"{setting.flag}: {expected}"
    assert refused(environ={setting.variable: text}) == f"{setting.variable}: {expected}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('port = "8000"', f"port: {PORT}, not '8000'"),
        ("port = true", f"port: {PORT}, not True"),
        ("port = 65536", f"port: {PORT}, not 65536"),
        ("host = 1979-05-27", "host: expected text, not datetime.date(1979, 5, 27)"),
        ('host = ""', f"host: '' is not {HOST}"),
        ("insecure_publish = 1", "insecure_publish: expected true or false, not 1"),
        ('insecure_publish = "true"', "insecure_publish: expected true or false, not 'true'"),
        ('cors_origins = "https://a"', "cors_origins: expected a list of texts, not 'https://a'"),
        ("cors_origins = [1]", "cors_origins: expected a list of texts, not [1]"),
        ('cors_origins = ["https://a", "https://b/"]', f"cors_origins: 'https://b/' is not {ORIGIN}"),
        ('heartbeat = "15"', f"heartbeat: {SECONDS}, not '15'"),
        ("heartbeat = nan", f"heartbeat: {SECONDS}, not nan"),
        ('overflow = "drop"', f"overflow: {POLICIES}, not 'drop'"),
        ("overflow = 1", f"overflow: {POLICIES}, not 1"),
        ("prot = 9000", "prot: no such setting; did you mean port?"),
        ("Port = 9000", "Port: no such setting; did you mean port?"),
        ("channels = []", "channels: no such setting; did you mean channel?"),
        ("workers = 2", "workers: no such setting"),
        ("queue-size = 9", "queue-size: no such setting; did you mean queue_size?"),
        ("[server]\nport = 1", "server: no such setting"),
    ],
)
def test_the_error_of_a_value_has_its_file_and_key(file: Path, line: str, expected: str) -> None:
    """It also has the expected type and the value. Text is no number in TOML."""
    file.write_text(line + "\n")
    assert refused(file=file) == f"{file}: {expected}"


@pytest.mark.parametrize(("content", "line"), [("port: 8000\n", 1), ("port = 1\nport = 2\n", 2)])
def test_a_file_that_is_not_toml_is_an_error(file: Path, content: str, line: int) -> None:
    file.write_text(content)
    reported = refused(file=file)
    assert reported.startswith(f"{file}: is not TOML: ")
    assert f"(at line {line}, " in reported


def test_a_file_that_is_not_utf8_is_an_error(file: Path) -> None:
    file.write_bytes(b'host = "\xff"\n')
    assert refused(file=file) == f"{file}: is not UTF-8 at byte 8"


def test_a_missing_file_is_an_error(file: Path) -> None:
    """The defaults do not replace a configured file."""
    assert refused(file=file) == f"{file}: cannot be read: No such file or directory"
    assert refused(file=file.parent) == f"{file.parent}: cannot be read: Is a directory"


def test_a_bad_value_is_refused_if_another_source_precedes_it(file: Path) -> None:
    file.write_text("port = -1\n")
    assert refused(flags={"port": "1"}, file=file) == f"{file}: port: {PORT}, not -1"


KUBERNETES = {
    "SSE_BROADCAST_SERVICE_HOST": "10.0.0.1",
    "SSE_BROADCAST_SERVICE_PORT": "80",
    "SSE_BROADCAST_SERVICE_PORT_HTTP": "80",
    "SSE_BROADCAST_PORT": "tcp://10.0.0.1:80",
    "SSE_BROADCAST_PORT_80_TCP": "tcp://10.0.0.1:80",
    "SSE_BROADCAST_PORT_80_TCP_PROTO": "tcp",
    "SSE_BROADCAST_PORT_80_TCP_PORT": "80",
    "SSE_BROADCAST_PORT_80_TCP_ADDR": "10.0.0.1",
}


def test_service_links_of_kubernetes_are_ignored() -> None:
    """A service named sse-broadcast gives every pod variables with the prefix of this program."""
    assert load({}, environ=KUBERNETES) == load({}, environ={})
    assert unknown_variables(KUBERNETES) == {}


def test_only_the_port_can_be_a_service_link() -> None:
    """In any other setting such an address is a value, checked like any other."""
    assert refused(environ={"SSE_BROADCAST_RETRY": "tcp://10.0.0.1:80"}) == (
        "SSE_BROADCAST_RETRY: expected a whole number of milliseconds from 0 to 86400000,"
        " not 'tcp://10.0.0.1:80'"
    )
    assert load({}, environ={"SSE_BROADCAST_HOST": "tcp://x"}).config.host == "tcp://x"


def test_an_empty_host_is_refused_from_every_source() -> None:
    """Only the image's own default gives way to tables."""
    complaint = f"{{}}: '' is not {HOST}"
    assert refused(flags={"host": ""}) == complaint.format("--host")
    assert refused(environ={"SSE_BROADCAST_HOST": ""}) == complaint.format("SSE_BROADCAST_HOST")


def test_contradictions_between_sources_are_refused(file: Path) -> None:
    file.write_text('token = "a-token-of-somebody"\nmax_event = 101\n')
    assert refused(environ={"SSE_BROADCAST_TOKEN_FILE": "f"}, file=file) == (
        "token and token_file: set only one of them"
    )
    assert refused(flags={"queue_bytes": "100"}, file=file) == (
        "queue_bytes: 100 cannot hold one event of max_event, 101 bytes"
    )


def test_unknown_variables_are_listed_with_suggestions() -> None:
    """A variable with the prefix that is no setting is probably misspelt."""
    known = {setting.variable: "" for setting in SETTINGS.values()}
    environ = {
        **known,
        "SSE_BROADCAST_URL": "",
        "SSE_BROADCAST_CONFIG": "",
        "SSE_BROADCAST_QUEUESIZE": "",
        "SSE_BROADCAST_PROT": "",
        "SSE_BROADCAST_CALLER": "",
        "SSE_BROADCAST_WORKERS": "",
        "SSE_BROADCAST_FOO": "",
        "SSE_BROADCAST_": "",
        "sse_broadcast_port": "",
        "HOME": "",
    }
    found = unknown_variables(environ)
    assert list(found) == sorted(found)
    assert found == {
        "SSE_BROADCAST_": "",
        "SSE_BROADCAST_CALLER": "",
        "SSE_BROADCAST_FOO": "",
        "SSE_BROADCAST_PROT": "SSE_BROADCAST_PORT",
        "SSE_BROADCAST_QUEUESIZE": "SSE_BROADCAST_QUEUE_SIZE",
        "SSE_BROADCAST_WORKERS": "",
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag_a_variable_and_a_help_text(name: str) -> None:
    """They come from its declaration. The help is a phrase without full stop."""
    setting = SETTINGS[name]
    assert setting.flag == "--" + name.replace("_", "-")
    assert setting.variable == "SSE_BROADCAST_" + name.upper()
    assert len(setting.help) > 10
    assert not setting.help.endswith(".")


def test_the_secrets_and_the_switches() -> None:
    """A secret has no flag. The flag of a switch has no value, and switches on what is off by default."""
    assert [name for name, setting in SETTINGS.items() if setting.secret] == ["token", "token_secret"]
    assert [name for name, setting in SETTINGS.items() if setting.switch] == ["insecure_publish"]
    assert [name for name, setting in SETTINGS.items() if setting.several] == [
        "anonymous_subscribe",
        "anonymous_publish",
        "anonymous_inspect",
        "allowed_hosts",
        "cors_origins",
        "trusted_proxies",
        "metrics_channels",
    ]
    secrets = [
        (table, field.name)
        for table, kind in RULES.items()
        for field in fields(kind)
        if is_secret(field.type)
    ]
    assert secrets == [("caller", "token")]


TOKEN = "a-token-of-somebody"


@pytest.mark.parametrize("name", ["token", "token_secret"])
def test_a_secret_comes_from_a_variable_or_the_file(file: Path, name: str) -> None:
    setting = SETTINGS[name]
    file.write_text(f'{name} = "{TOKEN}"\n')
    assert getattr(load({}, environ={}, file=file).config, name) == TOKEN
    loaded = load({}, environ={setting.variable: "another"}, file=file)
    assert getattr(loaded.config, name) == "another"
    assert loaded.sources[name] == setting.variable
    assert "another" not in repr(loaded)


SHOP = '[[caller]]\nname = "shop"\n'
ONE = "[[caller]] number 1"
TABLES = "caller: expected tables, each below a line [[caller]]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token = 123456789", "token: expected text, not what is there"),
        ('token = ["123456789"]', "token: expected text, not what is there"),
        ('tokn = "123456789"', "tokn: no such setting; did you mean token?"),
        (SHOP + "token = 123456789", f"{ONE}: token: expected text, not what is there"),
        (SHOP + 'tokn = "123456789"', f"{ONE}: tokn: no such setting; did you mean token?"),
        ('[[caller]]\ntoken = "123456789"', f"{ONE}: name: is missing"),
        (
            SHOP + 'token = "123456789"\ntoken_env = "E"',
            f"{ONE}: 'shop': set exactly one of token, token_file and token_env",
        ),
        ('[caller]\nname = "shop"\ntoken = "123456789"', TABLES),
        ('caller = ["123456789"]', TABLES),
    ],
)
def test_no_error_has_a_secret(file: Path, text: str, expected: str) -> None:
    file.write_text(text + "\n")
    reported = refused(file=file)
    assert "123456789" not in reported
    assert reported == f"{file}: {expected}"


@pytest.mark.parametrize(
    "text", ["token = '123456789", "token = 123456789'", "token = '123456789' '123456789'"]
)
def test_no_error_has_the_text_of_malformed_toml(file: Path, text: str) -> None:
    file.write_text(text + "\n")
    reported = refused(file=file)
    assert reported.startswith(f"{file}: is not TOML: ")
    assert "123456789" not in reported


# Tables.


def test_channel_rules_keep_the_order_of_the_file(file: Path) -> None:
    """Each is a table. Settings that it leaves out are None, and the server's apply."""
    file.write_text(
        '[[channel]]\nmatch = "prices.*"\noverflow = "conflate"\nhistory_size = 0\n'
        '[[channel]]\nmatch = "*"\nhistory_age = 60\nretry = 500\n'
    )
    loaded = load({}, environ={}, file=file)
    assert loaded.config.channel == (
        ChannelRule(match="prices.*", overflow=Overflow.CONFLATE, history_size=0),
        ChannelRule(match="*", history_age=60.0, retry=500),
    )
    assert loaded.sources["channel"] == str(file)


def test_callers_keep_the_order_of_the_file(file: Path) -> None:
    """Each is a table with the channels of each action. Its token is not read yet."""
    file.write_text(
        f'[[caller]]\nname = "shop"\ntoken = "{TOKEN}"\npublish = ["orders.*", "news"]\nadmin = []\n'
        '[[caller]]\nname = "a@b"\ntoken_env = "NOT_SET"\nsubscribe = ["*"]\n'
        '[[caller]]\nname = "c"\ntoken_file = "not/there"\ninspect = ["*"]\n'
    )
    loaded = load({}, environ={}, file=file)
    assert loaded.config.caller == (
        CallerRule(name="shop", token=TOKEN, publish=("orders.*", "news")),
        CallerRule(name="a@b", token_env="NOT_SET", subscribe=("*",)),
        CallerRule(name="c", token_file="not/there", inspect=("*",)),
    )
    assert loaded.sources["caller"] == str(file)
    assert TOKEN not in repr(loaded)


def test_listeners_keep_the_order_of_the_file(file: Path) -> None:
    """Each is a table. Without `endpoints` it has all."""
    file.write_text(
        '[[listener]]\nhost = "0.0.0.0"\nport = 443\ncertificate = "c"\nkey = "k"\n'
        'endpoints = ["subscribe"]\n'
        '[[listener]]\nhost = "unix:/run/sse.sock"\nmode = "0660"\nowner = ":www-data"\n'
    )
    loaded = load({}, environ={}, file=file)
    assert loaded.config.listeners == (
        ListenerRule(host="0.0.0.0", port=443, certificate="c", key="k", endpoints=(Endpoint.SUBSCRIBE,)),
        ListenerRule(host="unix:/run/sse.sock", mode="0660", owner=":www-data"),
    )
    assert loaded.config.listeners[1].endpoints == tuple(Endpoint)
    assert loaded.sources["listener"] == str(file)


@pytest.mark.parametrize(("name", "text"), [("host", "::"), ("port", "9000"), ("certificate", "c")])
def test_tables_of_listeners_exclude_the_plain_address(file: Path, name: str, text: str) -> None:
    """The error has the source of the second one. The default does not count."""
    setting = SETTINGS[name]
    tables = '[[listener]]\nhost = "::1"\n'
    complaint = f"{name}: is given by {{}}, and there are [[listener]] tables: remove one of them"
    file.write_text(tables)
    assert load({}, environ={}, file=file).config.listeners == (ListenerRule(host="::1"),)
    assert refused(flags={name: text}, file=file) == complaint.format(setting.flag)
    # the image's address, which applies if nothing else is configured
    assert load({}, environ={setting.variable: text}, file=file).config.listeners == (
        ListenerRule(host="::1"),
    )
    file.write_text(f"{name} = {text if name == 'port' else repr(text)}\n{tables}")
    assert refused(file=file) == complaint.format(file)


def test_the_settings_of_the_plain_address() -> None:
    rule = {field.name for field in fields(ListenerRule)} - {"name", "mode", "owner", "endpoints"}
    assert set(PLACE) == rule == rule & SETTINGS.keys()


CHANNEL_PATTERN = "a channel or a pattern: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ - *"
SETS = "expected a list of some of subscribe, publish, inspect, admin, console"


@pytest.mark.parametrize(
    ("table", "rule", "complaint"),
    [
        ("channel", 'match = "a b"', f"match: 'a b' is not {CHANNEL_PATTERN}"),
        ("channel", 'match = "a\\n"', f"match: 'a\\n' is not {CHANNEL_PATTERN}"),
        ("channel", "match = 5", "match: expected text, not 5"),
        ("channel", 'overflow = "conflate"', "match: is missing"),
        (
            "channel",
            'match = "a"\nhistory_sise = 1',
            "history_sise: no such setting; did you mean history_size?",
        ),
        ("channel", 'match = "a"\nhistory_size = -1', f"history_size: {COUNT}, not -1"),
        ("channel", 'match = "a"\nhistory_size = "1"', f"history_size: {COUNT}, not '1'"),
        ("channel", 'match = "a"\nhistory_age = 0', "history_age: expected a number, at least 0.01, not 0"),
        ("channel", 'match = "a"\noverflow = "drop"', f"overflow: {POLICIES}, not 'drop'"),
        ("caller", 'name = "a b"\ntoken = "x"', "name: 'a b' is not a name: 1 to 128 of A-Z a-z 0-9 . _ @ -"),
        ("caller", 'name = "a"', "'a': set exactly one of token, token_file and token_env"),
        ("caller", 'name = "a"\ntoken = "x"\npublish = "b"', "publish: expected a list of texts, not 'b'"),
        (
            "caller",
            'name = "a"\ntoken = "x"\npublish = ["b", "c d"]',
            f"publish: 'c d' is not {CHANNEL_PATTERN}",
        ),
        ("caller", 'name = "a"\ntoken = "x"\npublish = [5]', "publish: expected a list of texts, not [5]"),
        ("listener", "port = 1", "host: is missing"),
        ("listener", 'host = ""', f"host: '' is not {HOST}"),
        ("listener", 'host = "::1"\nport = "1"', f"port: {PORT}, not '1'"),
        ("listener", 'host = "::1"\nport = 65536', f"port: {PORT}, not 65536"),
        (
            "listener",
            'host = "::1"\nkey = "k"',
            "key: 'k' is set without certificate",
        ),
        ("listener", 'host = "::1"\nmode = "660"', "'::1' has a mode or an owner, but is not a UNIX socket"),
        ("listener", 'host = "unix:/a"\nmode = 660', "mode: expected text, not 660"),
        ("listener", 'host = "unix:/a"\nmode = "rw"', "mode: 'rw' is not octal digits, such as \"0660\""),
        (
            "listener",
            'host = "unix:/a"\nowner = ":"',
            "owner: ':' is not an owner: a user, user:group or :group",
        ),
        ("listener", 'host = "::1"\nendpoints = []', f"endpoints: {SETS}, not []"),
        ("listener", 'host = "::1"\nendpoints = "admin"', f"endpoints: {SETS}, not 'admin'"),
        (
            "listener",
            'host = "::1"\nendpoints = ["admin", "all"]',
            f"endpoints: {SETS}, not ['admin', 'all']",
        ),
    ],
)
def test_a_bad_rule_is_named_in_the_error(file: Path, table: str, rule: str, complaint: str) -> None:
    good = {"channel": 'match = "*"', "caller": 'name = "good"\ntoken = "x"', "listener": 'host = "::"'}[
        table
    ]
    file.write_text(f"[[{table}]]\n{good}\n[[{table}]]\n{rule}\n")
    assert refused(file=file) == f"{file}: [[{table}]] number 2: {complaint}"


@pytest.mark.parametrize("table", RULES)
@pytest.mark.parametrize("value", ["5", "[5]", '"x"', "{}", "true"])
def test_a_value_that_is_no_table_is_an_error(file: Path, table: str, value: str) -> None:
    file.write_text(f"{table} = {value}\n")
    assert refused(file=file) == f"{file}: {table}: expected tables, each below a line [[{table}]]"


# Changes at a reload.


def test_a_change_has_reloadable_and_restart_only_settings() -> None:
    """Both are names in declaration order.

    The new configuration has only the reloadable values changed.
    """
    before = Config(port=1, queue_size=5, heartbeat=9.0)
    after = Config(port=2, queue_size=6, heartbeat=9.0, retry=7)
    change = change_of(before, after)
    assert (change.changed, change.restart) == (("queue_size", "retry"), ("port",))
    assert change.config == Config(port=1, queue_size=6, heartbeat=9.0, retry=7)


def test_an_equal_configuration_has_no_changes() -> None:
    assert change_of(Config(), Config(port=8000)) == ConfigChange(Config(), (), ())


def test_the_restart_only_settings() -> None:
    """All others can change while the server runs."""
    assert {*SETTINGS, *RULES} > RESTART_ONLY


TLS: dict[str, Any] = {"certificate": "a.pem", "key": "a.key"}


@pytest.mark.parametrize(
    ("before", "after", "changed", "restart"),
    [
        (TLS, {"certificate": "b.pem", "key": "b.key"}, ("certificate", "key"), ()),
        (TLS, {"certificate": "b.pem"}, ("certificate", "key"), ()),
        (TLS, {}, (), ("certificate", "key")),
        ({}, TLS, (), ("certificate", "key")),
        (
            {"listener": (ListenerRule(host="a", **TLS),)},
            {"listener": (ListenerRule(host="a", certificate="b"),)},
            ("listener",),
            (),
        ),
        (
            {"listener": (ListenerRule(host="a", **TLS),)},
            {"listener": (ListenerRule(host="a"),)},
            (),
            ("listener",),
        ),
        ({"listener": (ListenerRule(host="a"),)}, {"listener": (ListenerRule(host="b"),)}, (), ("listener",)),
        ({"listener": (ListenerRule(host="a"),)}, {}, (), ("listener",)),
    ],
)
def test_only_the_certificate_of_a_listener_can_change(
    before: dict[str, Any], after: dict[str, Any], changed: tuple[str, ...], restart: tuple[str, ...]
) -> None:
    """Whether it has TLS needs a restart."""
    change = change_of(Config(**before), Config(**after))
    assert (change.changed, change.restart) == (changed, restart)
    assert change.config == (Config(**before) if restart else Config(**after))
