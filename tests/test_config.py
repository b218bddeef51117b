"""Where settings come from, and which are refused."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from sse_broadcast.config import (
    SETTINGS,
    ChannelRule,
    Config,
    EventLoop,
    Loaded,
    LogLevel,
    Overflow,
    load,
    unknown_variables,
)
from sse_broadcast.errors import ConfigError

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


def test_nothing_said_is_the_defaults() -> None:
    """Without flags, variables and a file every value is its default, and says so."""
    assert load({}, environ={}) == Loaded(Config(), dict.fromkeys(SETTINGS, "default"))


def test_the_defaults_are_these() -> None:
    """What an upgrade must not change unseen."""
    assert msgspec.structs.asdict(Config()) == {
        "host": "127.0.0.1",
        "port": 8000,
        "certificate": "",
        "key": "",
        "queue_size": 1000,
        "queue_bytes": 4_194_304,
        "overflow": Overflow.DISCONNECT,
        "max_event": 1_048_576,
        "max_batch": 1000,
        "max_body": 4_194_304,
        "max_channels": 100,
        "history_size": 1000,
        "history_age": 3600.0,
        "history_bytes": 8_388_608,
        "history_total": 134_217_728,
        "history_channels": 131_072,
        "idempotency_window": 300.0,
        "send_buffer": 131_072,
        "write_timeout": 30.0,
        "heartbeat": 15.0,
        "retry": 3000,
        "max_connections": 0,
        "body_timeout": 10.0,
        "shutdown_timeout": 8.0,
        "event_loop": EventLoop.AUTO,
        "log_level": LogLevel.INFO,
        "channel": (),
    }


@pytest.mark.parametrize("name", SETTINGS)
def test_every_default_is_allowed(name: str) -> None:
    """A default obeys the bounds of its setting."""
    setting = SETTINGS[name]
    assert setting.accept(setting.default) == setting.default


def test_a_flag_beats_the_variable_the_variable_the_file_the_file_the_default(file: Path) -> None:
    """Each value comes from the nearest source that names it, and keeps that source's name."""
    file.write_text("queue_size = 1\nmax_event = 2\nretry = 3\n")
    environ = {"SSE_BROADCAST_QUEUE_SIZE": "4", "SSE_BROADCAST_MAX_EVENT": "5"}
    loaded = load({"queue_size": "6", "retry": None}, environ=environ, file=file)
    assert loaded.config == Config(queue_size=6, max_event=5, retry=3)
    assert loaded.sources == dict.fromkeys(SETTINGS, "default") | {
        "queue_size": "--queue-size",
        "max_event": "SSE_BROADCAST_MAX_EVENT",
        "retry": str(file),
    }


def test_the_environment_is_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless another is given, variables are read from `os.environ`."""
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
    ],
)
def test_text_becomes_the_setting_s_type(name: str, text: str, value: object) -> None:
    """A flag and a variable say the same in text."""
    setting = SETTINGS[name]
    by_flag = load({name: text}, environ={}).config
    by_variable = load({}, environ={setting.variable: text}).config
    for config in (by_flag, by_variable):
        found = getattr(config, name)
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("line", "value"),
    [("heartbeat = 2", 2.0), ('overflow = "drop-newest"', Overflow.DROP_NEWEST), ("port = 0", 0)],
)
def test_a_file_has_typed_values(file: Path, line: str, value: object) -> None:
    """TOML's own types are taken; a whole number is also a number of seconds."""
    file.write_text(line + "\n")
    name = line.partition(" ")[0]
    assert getattr(load({}, environ={}, file=file).config, name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("port", "65536", "expected `int` <= 65535, not '65536'"),
        ("port", "-1", "expected `int` >= 0, not '-1'"),
        ("port", "http", "expected `int`, not 'http'"),
        ("port", "", "expected `int`, not ''"),
        ("queue_size", "0", "expected `int` >= 1, not '0'"),
        ("queue_size", "1.5", "expected `int`, not '1.5'"),
        ("send_buffer", "2147483648", "expected `int` <= 2147483647, not '2147483648'"),
        ("heartbeat", "0", "expected `float` >= 0.01, not '0'"),
        ("heartbeat", "nan", "expected `float` >= 0.01, not 'nan'"),
        ("heartbeat", "inf", "expected `float` <= 86400.0, not 'inf'"),
        ("host", "", "expected `str` of length >= 1, not ''"),
        ("overflow", "Drop", "expected one of disconnect, drop-oldest, drop-newest, conflate, not 'Drop'"),
        ("event_loop", "trio", "expected one of auto, asyncio, uvloop, not 'trio'"),
        ("log_level", "INFO", "expected one of debug, info, warning, error, not 'INFO'"),
    ],
)
def test_a_bad_value_is_told_with_its_flag_or_variable(name: str, text: str, expected: str) -> None:
    """The error names where the value was said, what is expected there, and the value."""
    setting = SETTINGS[name]
    assert refused(flags={name: text}) == f"{setting.flag}: {expected}"
    assert refused(environ={setting.variable: text}) == f"{setting.variable}: {expected}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('port = "8000"', "port: expected `int`, not '8000'"),
        ("port = true", "port: expected `int`, not True"),
        ("port = 65536", "port: expected `int` <= 65535, not 65536"),
        ("host = 1979-05-27", "host: expected `str`, not datetime.date(1979, 5, 27)"),
        ('heartbeat = "15"', "heartbeat: expected `float`, not '15'"),
        ("heartbeat = nan", "heartbeat: expected `float` >= 0.01, not nan"),
        ('overflow = "drop"', f"overflow: {POLICIES}, not 'drop'"),
        ("overflow = 1", f"overflow: {POLICIES}, not 1"),
        ("prot = 9000", "prot: no such setting (its value is 9000)"),
        ("queue-size = 9", "queue-size: no such setting (its value is 9)"),
        ("[server]\nport = 1", "server: no such setting (its value is {'port': 1})"),
    ],
)
def test_a_bad_value_is_told_with_its_file_and_key(file: Path, line: str, expected: str) -> None:
    """The error names the file, the key, what is expected, and the value; text is not a number in TOML."""
    file.write_text(line + "\n")
    assert refused(file=file) == f"{file}: {expected}"


@pytest.mark.parametrize(("content", "line"), [("port: 8000\n", 1), ("port = 1\nport = 2\n", 2)])
def test_a_file_that_is_not_toml_is_told(file: Path, content: str, line: int) -> None:
    """The error names the file, and where in it, in tomllib's words."""
    file.write_text(content)
    told = refused(file=file)
    assert told.startswith(f"{file}: is not TOML: ")
    assert f"(at line {line}, " in told


def test_a_file_that_is_not_utf_8_is_told(file: Path) -> None:
    """The error names the file, and the byte."""
    file.write_bytes(b'host = "\xff"\n')
    assert refused(file=file) == f"{file}: is not UTF-8 at byte 8"


def test_a_file_that_is_not_there_is_told(file: Path) -> None:
    """A file that was asked for and cannot be read is an error, not the defaults."""
    assert refused(file=file) == f"{file}: cannot be read: No such file or directory"
    assert refused(file=file.parent) == f"{file.parent}: cannot be read: Is a directory"


def test_a_bad_value_is_refused_even_where_another_source_wins(file: Path) -> None:
    """What is wrong in a file does not wait for the flag to go away."""
    file.write_text("port = -1\n")
    assert refused(flags={"port": "1"}, file=file) == f"{file}: port: expected `int` >= 0, not -1"


def test_a_queue_holds_one_event() -> None:
    """An event that may be published must fit into an empty queue."""
    assert refused(flags={"queue_bytes": "100", "max_event": "101"}) == (
        "queue_bytes: 100 cannot hold one event of max_event, 101 bytes"
    )
    assert load({"queue_bytes": "100", "max_event": "100"}, environ={}).config.queue_bytes == 100


def test_a_key_needs_a_certificate() -> None:
    """Whoever names a key wants TLS, and must not get HTTP; a certificate's file may hold its key."""
    assert refused(flags={"key": "key.pem"}) == "key: 'key.pem' is given without a certificate"
    assert load({"certificate": "both.pem"}, environ={}).config.key == ""


def test_values_that_contradict_one_another_are_refused_in_programs_too() -> None:
    """`Config(...)` holds what a configuration file must hold."""
    with pytest.raises(ConfigError, match="cannot hold one event"):
        Config(queue_bytes=1)
    with pytest.raises(TypeError, match="prot"):
        Config(prot=1)  # type: ignore[call-arg]


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


def test_the_variables_of_a_kubernetes_service_are_no_settings() -> None:
    """A pod beside a service named sse-broadcast starts as if its service links were not there."""
    assert load({}, environ=KUBERNETES) == load({}, environ={})
    assert unknown_variables(KUBERNETES) == []


def test_only_the_port_may_be_a_service_link() -> None:
    """An address in any other setting is a value, and told if it is a bad one."""
    assert refused(environ={"SSE_BROADCAST_RETRY": "tcp://10.0.0.1:80"}) == (
        "SSE_BROADCAST_RETRY: expected `int`, not 'tcp://10.0.0.1:80'"
    )
    assert load({}, environ={"SSE_BROADCAST_HOST": "tcp://x"}).config.host == "tcp://x"


def test_unknown_variables_are_listed() -> None:
    """A variable with our prefix that is no setting is most often a typing error."""
    known = {setting.variable: "" for setting in SETTINGS.values()}
    environ = {
        **known,
        "SSE_BROADCAST_URL": "",
        "SSE_BROADCAST_CONFIG": "",
        "SSE_BROADCAST_QUEUESIZE": "",
        "SSE_BROADCAST_": "",
        "sse_broadcast_port": "",
        "HOME": "",
    }
    assert unknown_variables(environ) == ["SSE_BROADCAST_", "SSE_BROADCAST_QUEUESIZE"]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag_a_variable_and_a_help_text(name: str) -> None:
    """All from its one declaration; the help is a phrase, to which others add a full stop."""
    setting = SETTINGS[name]
    assert setting.flag == "--" + name.replace("_", "-")
    assert setting.variable == "SSE_BROADCAST_" + name.upper()
    assert len(setting.help) > 10
    assert not setting.help.endswith(".")


def test_rules_for_channels_come_from_the_file_in_their_order(file: Path) -> None:
    """A table each; what it does not say is None, and left to the server's own settings."""
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


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ('match = "a b"', "expected `str` matching regex '^[A-Za-z0-9._:@~*-]{1,128}$' - at `$[0].match`"),
        ('overflow = "conflate"', "object missing required field `match` - at `$[0]`"),
        ('match = "a"\nhistory_sise = 1', "object contains unknown field `history_sise` - at `$[0]`"),
        ('match = "a"\nhistory_size = -1', "expected `int` >= 0 - at `$[0].history_size`"),
        ('match = "a"\noverflow = "drop"', "invalid enum value 'drop' - at `$[0].overflow`"),
    ],
)
def test_a_bad_rule_is_named(file: Path, rule: str, complaint: str) -> None:
    """With its file, its place and what is wrong."""
    file.write_text(f"[[channel]]\n{rule}\n")
    assert refused(file=file) == f"{file}: [[channel]]: {complaint}"
