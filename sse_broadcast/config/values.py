"""Value formats: how a setting's value is checked, converted and shown."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Annotated, get_args, get_origin

import msgspec
from msgspec import Meta

from sse_broadcast.channels import CHANNEL_NAME, MAX_NAME_LENGTH, PATTERN_CHARACTERS
from sse_broadcast.config.suggestions import nearest
from sse_broadcast.errors import ConfigError
from sse_broadcast.unix_address import UNIX_PREFIX

SECRET_MARK: dict[str, bool] = {"secret": True}
"""Marks a setting whose value is never shown."""

ADDRESS: dict[str, bool] = {"address": True}
"""Marks a setting that may be a URL, whose secret parts are not shown."""

MEMORY = "memory"
"""The backend that keeps history in memory."""

SQLITE_PREFIX = "sqlite://"
"""Stands before the path of a file that keeps the history."""

HIDDEN = "(not shown)"
"""Shown in place of a secret. Never a secret itself."""

_SECRETS_OF_URL = re.compile(r"(?<=://)[^?#]*(?=@)|(?<=\?)[^#]+|(?<=#).+", re.DOTALL)
"""User and password, query, fragment. A password may contain a slash that should have been escaped."""


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """The format of a text. `what` describes a valid one in error messages; `good` is true for a valid one.

    `hints` pairs invalid texts that people often try with an explanation.
    """

    what: str
    good: Callable[[str], object]
    hints: tuple[tuple[str, str], ...] = ()

    def require(self, name: str, value: object) -> None:
        """Raise `ConfigError` if a text, or one in a list of texts, is not valid.

        `name` is the setting, for the message.
        """
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and not self.good(text):
                hint = next((f"; {hint}" for tried, hint in self.hints if tried == text), "")
                raise ConfigError(f"{name}: {text!r} is not {self.what}{hint}")


def format_of(kind: object) -> ValueFormat | None:
    """Return the format that texts of this type must match; for a list type, the format of its items."""
    parts = get_args(kind)
    own = next((part for part in parts if isinstance(part, ValueFormat)), None)
    return own or next(filter(None, map(format_of, parts)), None)


def metas(kind: object) -> list[Meta]:
    """Return the msgspec annotations of a type."""
    return [meta for meta in get_args(kind) if isinstance(meta, Meta)]


def bare(kind: object) -> object:
    """Return an optional type without None, which stands for a value that is not given."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    return parts[0] if NoneType in get_args(kind) else kind


def is_secret(kind: object) -> bool:
    """Return whether values of this type must never be shown."""
    return any(meta.extra is SECRET_MARK for meta in metas(bare(kind)))


def may_be_address(kind: object) -> bool:
    """Return whether values of this type may be URLs that contain a secret."""
    return any(meta.extra is ADDRESS for meta in metas(bare(kind)))


def shown(kind: object, value: object) -> object:
    """Return the value of a setting of this type with its secrets replaced by `HIDDEN`."""
    if value and is_secret(kind):
        return HIDDEN
    return shown_url(value) if isinstance(value, str) and may_be_address(kind) else value


def shown_url(text: str) -> str:
    """Return a URL with its user, password, query and fragment hidden: each may be secret."""
    return _SECRETS_OF_URL.sub(HIDDEN, text) if "://" in text else text


def convert(value: object, kind: object, where: str, *, strict: bool) -> object:
    """Convert a value to its declared type. Raises `ConfigError`; its message starts with `where`.

    Without `strict` a text may stand for a number or a boolean, as on a command line.
    """
    kind = bare(kind)
    if form := format_of(kind):
        form.require(where, value)
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        shown = "what is there" if is_secret(kind) or _has_tables(kind) else repr(value)
        place = str(error).partition(" - at `$")[2].removesuffix("`")
        if place and _has_tables(kind):
            shown += f" at {place}"
        raise ConfigError(f"{where}: expected {_expected(kind, error)}, not {shown}") from None


def _has_tables(kind: object) -> bool:
    """Return whether values of this type are tables, which may hold secrets."""
    return any(isinstance(part, type) and issubclass(part, msgspec.Struct) for part in get_args(kind))


def _expected(kind: object, error: msgspec.ValidationError) -> str:
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(plain) is tuple:
        return _list_of(get_args(plain)[0])
    if isinstance(plain, type) and issubclass(plain, StrEnum):
        return "one of " + ", ".join(plain)
    if plain in {bool, str}:
        return "true or false" if plain is bool else "text"
    if plain in {int, float}:
        return _number(kind, whole=plain is int)
    return str(error).lower().partition(", got ")[0].removeprefix("expected ")


def _number(kind: object, *, whole: bool) -> str:
    """Describe a number: its unit, which is never written after the value, and its bounds."""
    limits = metas(kind)
    said = next((meta.description for meta in limits if meta.description), "")
    unit = next((f" of {unit}" for unit in _UNITS if said.removeprefix("maximum ").startswith(unit)), "")
    least = next((meta.ge for meta in limits if meta.ge is not None), None)
    most = next((meta.le for meta in limits if meta.le is not None), None)
    bounds = "" if least is None else f", at least {least:g}"
    if least is not None and most is not None:
        bounds = f" from {least:g} to {most:.15g}"
    return f"a {'whole ' if whole else ''}number{unit}{bounds}"


_UNITS = ("seconds", "milliseconds", "bytes")


def _list_of(kind: object) -> str:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "a list of some of " + ", ".join(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"a list of {kind.__name__}"
    return "a list of texts"


def _is_host_name(value: str) -> bool:
    if not value.startswith("["):
        return re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", value) is not None
    try:
        ipaddress.IPv6Address(value[1:-1])
    except ValueError:
        return False
    return value.endswith("]")


def _is_origin(value: str) -> bool:
    found = re.fullmatch(r"([a-z][a-z0-9+.-]*)://([^/]+?)(?::([1-9][0-9]{0,4}))?", value)
    if found is None:
        return False
    scheme, host, port = found.groups()
    if port is not None and int(port) > 65_535:
        return False
    if scheme not in _USUAL_PORTS:
        return _is_app_origin(scheme, host)
    below = host.removeprefix("*.")
    if below != host and "." not in below and below != "localhost":
        return False  # https://*.com would allow every site
    return _is_host_name(below) and port != _USUAL_PORTS[scheme]  # browsers leave the default port out


def _is_app_origin(scheme: str, host: str) -> bool:
    """Return whether pages of a browser extension or an app may have this origin: capacitor://localhost."""
    if scheme in _NO_ORIGINS or nearest(scheme, _USUAL_PORTS):
        return False
    return re.fullmatch(r"[A-Za-z0-9._-]+", host) is not None


_USUAL_PORTS = {"http": "80", "https": "443"}

_NO_ORIGINS = frozenset({"about", "blob", "data", "file", "ftp", "ftps", "javascript", "unix", "ws", "wss"})
"""Schemes whose pages have no origin of their own, and schemes that no page has."""


def _is_proxy(value: str) -> bool:
    if value == "unix":
        return True
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _all_of(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern).fullmatch


PATTERN = rf"[{PATTERN_CHARACTERS}]{{1,{MAX_NAME_LENGTH}}}"

Pattern = Annotated[
    str,
    Meta(pattern=rf"^{PATTERN}\Z"),
    ValueFormat("a channel or a pattern: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ - *", _all_of(PATTERN)),
]
Patterns = tuple[Pattern, ...]
Channel = Annotated[
    str,
    ValueFormat(
        "a channel: 1 to 128 of A-Z a-z 0-9 . _ : @ ~ -, and neither . nor ..",
        CHANNEL_NAME.fullmatch,
    ),
]
Host = Annotated[
    str,
    ValueFormat(
        "an address, * for every address, or unix: and a path",
        lambda text: text not in {"", UNIX_PREFIX} and "\0" not in text,
    ),
]
HostName = Annotated[str, ValueFormat("a host name in lower case, without a port", _is_host_name)]
Origin = Annotated[
    str,
    ValueFormat(
        "an origin as browsers send it, such as https://example.com, http://localhost:3000,"
        " https://*.example.com or capacitor://localhost",
        _is_origin,
        (
            (
                "*",
                "browsers send no credentials to *: name each origin, or https://*. and a domain",
            ),
            ("null", "every sandboxed page and every local file sends it"),
        ),
    ),
]
TrustedProxy = Annotated[str, ValueFormat("an address, a network such as 10.0.0.0/8, or unix", _is_proxy)]
BackendUrl = Annotated[
    str,
    ValueFormat(
        f"{MEMORY}, or {SQLITE_PREFIX} and an absolute path, such as {SQLITE_PREFIX}/var/lib/history.db",
        lambda text: text == MEMORY or re.fullmatch(rf"{SQLITE_PREFIX}/[^\0]*[^/\0]", text),
        (("sqlite", "name the file"),),
    ),
]
Cookie = Annotated[str, ValueFormat("the name of a cookie", _all_of(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*"))]
Claim = Annotated[str, ValueFormat("the name of a claim", bool)]
CallerName = Annotated[
    str, ValueFormat("a name: 1 to 128 of A-Z a-z 0-9 . _ @ -", _all_of(r"[A-Za-z0-9._@-]{1,128}"))
]
Mode = Annotated[str, ValueFormat('octal digits, such as "0660"', _all_of("0?[0-7]{3}"))]
Owner = Annotated[
    str, ValueFormat("an owner: a user, user:group or :group", _all_of(r"[^:\s]+(:[^:\s]+)?|:[^:\s]+"))
]
Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1)]
Limit = Annotated[int, Meta(ge=0)]
"""A maximum; 0 means no limit."""
Port = Annotated[int, Meta(ge=0, le=65_535)]
Seconds = Annotated[float, Meta(ge=0.01, le=86_400)]
Span = Annotated[float, Meta(ge=0, le=86_400)]
"""Seconds, or 0 for none."""
