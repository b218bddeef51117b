"""GET /config: the active configuration, and where each value came from."""

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import hdrs, web

from sse_broadcast.auth.principal import Action
from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import PROGRAM, RESTART_ONLY, RULES, SETTINGS
from sse_broadcast.config.values import shown
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.http.responses import ActiveConfig, ConfigTable, SettingState, answered
from sse_broadcast.server.services import CONFIG_SOURCES, services_of
from sse_broadcast.version import __version__


async def get_config(request: web.Request) -> web.Response:
    """Answer with every setting and table; secrets are not shown."""
    require_permission(request, Action.ADMIN)
    config, sources = services_of(request).config, request.app[CONFIG_SOURCES].active.sources
    response = answered(ActiveConfig(__version__, _settings(config, sources), _tables(config, sources)))
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _settings(config: Config, sources: Mapping[str, str]) -> list[SettingState]:
    return [
        SettingState(
            name,
            shown(setting.type, getattr(config, name)),
            shown(setting.type, setting.default),
            sources[name],
            setting.help,
            name in RESTART_ONLY,
        )
        for name, setting in SETTINGS.items()
    ]


def _tables(config: Config, sources: Mapping[str, str]) -> list[ConfigTable]:
    return [
        ConfigTable(name, sources.get(name, PROGRAM), [_shown(rule) for rule in rules], name in RESTART_ONLY)
        for name in RULES
        if (rules := getattr(config, name))
    ]


def _shown(rule: msgspec.Struct) -> Mapping[str, Any]:
    return {
        field.name: shown(field.type, value)
        for field in msgspec.structs.fields(rule)
        if (value := getattr(rule, field.name)) not in (None, "", ())
    }
