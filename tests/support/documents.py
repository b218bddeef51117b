"""Documents that are generated from the settings: `python -m tests.support.documents` writes them again."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sse_broadcast.config.sources import SETTINGS

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "config.example.toml"
CONFIGURATION = ROOT / "docs" / "configuration.md"

GROUPS: Mapping[str, Sequence[str]] = {
    "Listen": ("host", "port", "certificate", "key"),
    "Who may do what": (
        *("token", "token_file", "anonymous_subscribe", "anonymous_publish", "anonymous_inspect"),
        *("insecure_publish", "cookie", "jwt_key_file", "jwt_jwks", "jwt_jwks_refresh", "jwt_issuer"),
        *("jwt_audience", "jwt_claim", "token_secret", "token_secret_file", "token_lifetime"),
        *("allowed_hosts", "cors_origins", "trusted_proxies", "proxy_header"),
    ),
    "Limits": (
        *("max_event", "max_batch", "max_body", "max_channels", "max_patterns", "max_connections"),
        *("max_connections_per_address", "max_connections_per_token", "subscribe_rate", "subscribe_burst"),
        *("publish_rate", "publish_burst", "subscribed_channels", "head_timeout", "body_timeout"),
    ),
    "History": (
        *(
            "backend",
            "durability",
            "history_memory",
            "history_size",
            "history_age",
            "history_bytes",
            "history_total",
            "history_channels",
        ),
        "idempotency_window",
    ),
    "Streams": ("heartbeat", "retry", "lifetime"),
    "Slow subscribers": ("queue_size", "queue_bytes", "overflow", "send_buffer", "write_timeout"),
    "Start and stop": ("event_loop", "drain_delay", "drain_timeout", "shutdown_timeout"),
    "Log and metrics": ("log_level", "log_format", "metrics", "metrics_channels", "console"),
}
"""The settings as `docs/configuration.md` groups them. A new setting is in one of them."""

TABLES = """
# Settings of the channels that match a pattern; what is not said here is as above. The first rule that
# matches a channel is the one.
# [[channel]]
# match = "prices.*"
# history_size = 1
# history_age = 86400.0
# history_bytes = 65536
# overflow = "conflate"
# retry = 1000

# A caller with a token of its own, and the channels in which it may do what. Its token is at least 16 of
# A-Z a-z 0-9 - . _ ~ + /, and is in a file, in an environment variable (token_env) or here (token).
# [[caller]]
# name = "shop"
# token_file = "/run/secrets/shop"
# publish = ["orders.*", "news"]
# subscribe = ["orders.*"]
# inspect = ["*"]
# admin = ["*"]

# Places to listen, instead of host, port, certificate and key above, which must go then. Each serves
# some endpoints: subscribe is /events and /client.js, publish /send, inspect what tells of the server
# (/status, /channels, /subscribers, /metrics, /openapi.json), admin what changes it (/tokens, /revoke,
# /reload, /config, DELETE /subscribers/ID), console the page at /; without the line, all of them. /healthz
# and /readyz are everywhere.
# [[listener]]
# host = "0.0.0.0"
# port = 8443
# certificate = "/etc/ssl/push.pem"
# key = "/etc/ssl/push.key"
# endpoints = ["subscribe"]

# A socket that systemd hands down is that of the listener with its name there (FileDescriptorName).
# name = "public"

# A UNIX socket has a mode and an owner: "user", "user:group" or ":group".
# [[listener]]
# host = "unix:/run/sse-broadcast.sock"
# mode = "0660"
# owner = ":www-data"
# endpoints = ["publish", "inspect", "admin", "console"]
"""
"""The tables of the example file, which are examples only."""

_TABLE = re.compile(r"(?<=<!-- settings -->\n).*?(?=<!-- end of settings -->)", re.DOTALL)


def value(name: str) -> str:
    """Return the default of a setting, as TOML."""
    return json.dumps(SETTINGS[name].default)


def example() -> str:
    """Return the whole of `config.example.toml`."""
    head = "# Every setting with its default. Use it with: sse-broadcast serve --config FILE\n"
    settings = (f"\n# {setting.sentence}\n{name} = {value(name)}\n" for name, setting in SETTINGS.items())
    return head + "".join(settings) + TABLES


def settings_tables() -> str:
    """Return the tables of `docs/configuration.md`, one for each group."""
    return "".join(f"\n### {title}\n\n{_table(names)}" for title, names in GROUPS.items()) + "\n"


def row(name: str) -> str:
    """Return the line of a setting in its table."""
    return f"| `{name}` | `{value(name)}` | {SETTINGS[name].help} |\n"


def _table(names: Sequence[str]) -> str:
    return f"| setting | default | meaning |\n|---|---|---|\n{''.join(map(row, names))}"


def generated() -> Mapping[Path, str]:
    """Return the documents that have something generated in them, whole, as they are to be."""
    tables = settings_tables()
    return {EXAMPLE: example(), CONFIGURATION: _TABLE.sub(lambda _: tables, CONFIGURATION.read_text())}


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
