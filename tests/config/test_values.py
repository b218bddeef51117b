"""Value formats: accepted values, errors, and how secrets are shown."""

from typing import Any

import pytest

from sse_broadcast.config.schema import Config
from sse_broadcast.config.values import shown_url
from tests.config.refusals import PATTERN, refused

HOST_NAME = "a host name in lower case, without a port"


HOST = "an address, * for every address, or unix: and a path"


ORIGIN = (
    "an origin as browsers send it, such as https://example.com, http://localhost:3000,"
    " https://*.example.com or capacitor://localhost"
)


PROXY = "an address, a network such as 10.0.0.0/8, or unix"


CHANNEL = "a channel: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ -, and neither . nor .."


FORMS = [
    ("host", "", HOST),
    ("host", "unix:", HOST),
    ("host", "unix:/a\0b", HOST),
    ("cookie", "a b", "the name of a cookie"),
    ("cookie", "a;b", "the name of a cookie"),
    ("cookie", "a\n", "the name of a cookie"),
    ("jwt_claim", "", "the name of a claim"),
    ("anonymous_subscribe", "a b", PATTERN),
    ("anonymous_publish", "", PATTERN),
    ("anonymous_inspect", "a\n", PATTERN),
    ("anonymous_inspect", "a" * 129, PATTERN),
    ("allowed_hosts", "Example.com", HOST_NAME),
    ("allowed_hosts", "example.com:8000", HOST_NAME),
    ("allowed_hosts", "example.com.", HOST_NAME),
    ("allowed_hosts", "*.example.com", HOST_NAME),
    ("allowed_hosts", "http://example.com", HOST_NAME),
    ("allowed_hosts", "example.com\n", HOST_NAME),
    ("allowed_hosts", "::1", HOST_NAME),
    ("allowed_hosts", "[::g]", HOST_NAME),
    ("allowed_hosts", "[::1", HOST_NAME),
    ("allowed_hosts", "", HOST_NAME),
    ("cors_origins", "", ORIGIN),
    ("cors_origins", "example.com", ORIGIN),
    ("cors_origins", "localhost:3000", ORIGIN),
    ("cors_origins", "https://", ORIGIN),
    ("cors_origins", "https://example.com/", ORIGIN),
    ("cors_origins", "https://Example.com", ORIGIN),
    ("cors_origins", "https://*", ORIGIN),
    ("cors_origins", "https://*.com", ORIGIN),
    ("cors_origins", "https://*.", ORIGIN),
    ("cors_origins", "https://a.*.com", ORIGIN),
    ("cors_origins", "https://*a.example.com", ORIGIN),
    ("cors_origins", "https://*.*.example.com", ORIGIN),
    ("cors_origins", "https://*.Example.com", ORIGIN),
    ("cors_origins", "https://*.example.com:443", ORIGIN),
    ("cors_origins", "https://*.[::1]", ORIGIN),
    ("cors_origins", "capacitor://*.localhost", ORIGIN),
    ("cors_origins", "capacitor://", ORIGIN),
    ("cors_origins", "capacitor://localhost/", ORIGIN),
    ("cors_origins", "capacitor://localhost:65536", ORIGIN),
    ("cors_origins", "app://user@host", ORIGIN),
    ("cors_origins", "HTTPS://example.com", ORIGIN),
    ("cors_origins", "Capacitor://localhost", ORIGIN),
    ("cors_origins", "://example.com", ORIGIN),
    ("cors_origins", "1app://example.com", ORIGIN),
    ("cors_origins", "htps://example.com", ORIGIN),
    ("cors_origins", "httpss://example.com", ORIGIN),
    ("cors_origins", "ws://example.com", ORIGIN),
    ("cors_origins", "wss://example.com", ORIGIN),
    ("cors_origins", "file://localhost", ORIGIN),
    ("cors_origins", "data://x", ORIGIN),
    ("cors_origins", "blob://x", ORIGIN),
    ("cors_origins", "https://user@example.com", ORIGIN),
    ("cors_origins", "https://example.com\n", ORIGIN),
    ("cors_origins", "https://example.com:443", ORIGIN),
    ("cors_origins", "http://example.com:80", ORIGIN),
    ("cors_origins", "https://example.com:0", ORIGIN),
    ("cors_origins", "https://example.com:08443", ORIGIN),
    ("cors_origins", "https://example.com:65536", ORIGIN),
    ("cors_origins", "https://example.com:", ORIGIN),
    ("cors_origins", "https://[::g]", ORIGIN),
    ("cors_origins", "ftp://example.com", ORIGIN),
    ("trusted_proxies", "proxy.example.com", PROXY),
    ("trusted_proxies", "10.0.0.1/8", PROXY),
    ("trusted_proxies", "10.0.0.0/33", PROXY),
    ("trusted_proxies", "unix:/run/proxy", PROXY),
    ("trusted_proxies", "", PROXY),
    ("metrics_channels", "a*", CHANNEL),
    ("metrics_channels", "..", CHANNEL),
    ("metrics_channels", "a\n", CHANNEL),
    ("metrics_channels", "", CHANNEL),
]


@pytest.mark.parametrize(("name", "text", "what"), FORMS)
def test_malformed_text_is_refused(name: str, text: str, what: str) -> None:
    value = text if type(getattr(Config(), name)) is str else ("unix", text) if what is PROXY else (text,)
    assert refused(Config, **{name: value}) == f"{name}: {text!r} is not {what}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "unix:/run/sse.sock"),
        ("host", "::1"),
        ("host", "push.example.com"),
        ("host", "*"),
        ("host", "::"),
        ("host", "[::1]"),
        ("cookie", "__Host-token"),
        ("jwt_claim", "https://example.com/grants"),
        ("anonymous_subscribe", ("news", "orders.*", "a:b@c~d-e_f", "*", "x" * 128)),
        ("allowed_hosts", ("example.com", "push", "xn--bcher-kva.example", "10.0.0.1", "[fd00::1]", "a_b")),
        ("cors_origins", ("https://example.com", "http://localhost:3000", "https://[::1]:8443")),
        ("cors_origins", ("https://example.com:80", "http://example.com:65535", "http://10.0.0.1")),
        ("cors_origins", ("https://*.example.com", "http://*.a.example.com:3000", "http://*.localhost:8080")),
        ("cors_origins", ("capacitor://localhost", "ionic://localhost", "tauri://localhost", "app://.")),
        ("cors_origins", ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", "moz-extension://0a-1b")),
        ("trusted_proxies", ("10.0.0.1", "10.0.0.0/8", "fd00::/8", "::1", "unix")),
        ("metrics_channels", ("news", "a:b@c~d-e_f", "...", "x" * 128)),
    ],
)
def test_well_formed_text_is_unchanged(name: str, value: Any) -> None:
    said = {name: value}
    assert getattr(Config(**said), name) == value


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ("*", "browsers send no credentials to *: name each origin, or https://*. and a domain"),
        ("null", "every sandboxed page and every local file sends it"),
    ],
)
def test_a_common_mistake_in_an_origin_is_explained(origin: str, hint: str) -> None:
    """The general error would not say what is wrong."""
    reported = f"cors_origins: {origin!r} is not {ORIGIN}; {hint}"
    assert refused(Config, cors_origins=("https://example.com", origin)) == reported


WRONG_TYPES: list[tuple[str, Any, str]] = [
    ("host", 5, "expected text, not 5"),
    ("port", "5", "expected a whole number from 0 to 65535, not '5'"),
    ("port", 5.0, "expected a whole number from 0 to 65535, not 5.0"),
    ("port", True, "expected a whole number from 0 to 65535, not True"),
    ("port", -1, "expected a whole number from 0 to 65535, not -1"),
    ("port", 65_536, "expected a whole number from 0 to 65535, not 65536"),
    ("queue_size", 0, "expected a whole number, at least 1, not 0"),
    ("queue_bytes", "4M", "expected a whole number of bytes, at least 1, not '4M'"),
    ("send_buffer", 1 << 31, "expected a whole number of bytes from 0 to 2147483647, not 2147483648"),
    ("retry", -1, "expected a whole number of milliseconds from 0 to 86400000, not -1"),
    ("heartbeat", "4", "expected a number of seconds from 0.01 to 86400, not '4'"),
    ("heartbeat", 0, "expected a number of seconds from 0.01 to 86400, not 0"),
    ("history_age", float("inf"), "expected a number of seconds from 0.01 to 31536000, not inf"),
    ("metrics", 1, "expected true or false, not 1"),
    ("insecure_publish", "yes", "expected true or false, not 'yes'"),
    ("overflow", "drop", "expected one of disconnect, drop-oldest, drop-newest, conflate, not 'drop'"),
    ("cors_origins", "https://a", "expected a list of texts, not 'https://a'"),
    ("anonymous_publish", (5,), "expected a list of texts, not (5,)"),
    ("channel", ({"match": 5},), "expected a list of ChannelRule, not what is there at [0].match"),
    ("listener", "a", "expected a list of ListenerRule, not what is there"),
    ("token", 123_456, "expected text, not what is there"),
    ("token_secret", b"123456", "expected text, not what is there"),
]


@pytest.mark.parametrize(("name", "value", "complaint"), WRONG_TYPES)
def test_a_value_of_another_type_is_refused(name: str, value: Any, complaint: str) -> None:
    assert refused(Config, **{name: value}) == f"{name}: {complaint}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://id.example.com/jwks", "https://id.example.com/jwks"),
        ("https://id.example.com/jwks?key=s3cret&x", "https://id.example.com/jwks?(not shown)"),
        ("https://ann:s3cret@id.example.com/jwks", "https://(not shown)@id.example.com/jwks"),
        ("https://ann:s/3cr@et@id.example.com/", "https://(not shown)@id.example.com/"),
        ("https://id.example.com/#s3cret", "https://id.example.com/#(not shown)"),
        ("https://a@b/?c@d#e", "https://(not shown)@b/?(not shown)#(not shown)"),
        ("https://id.example.com/?", "https://id.example.com/?"),
        ("/etc/keys?/jwks#1", "/etc/keys?/jwks#1"),
    ],
)
def test_a_secret_in_a_url_is_hidden(url: str, expected: str) -> None:
    """The publisher of the keys may require one. A file path is shown whole."""
    assert shown_url(url) == expected
