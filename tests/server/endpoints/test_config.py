"""GET /config: every value, where it came from, and no secret."""

import json
from pathlib import Path
from typing import Any

from sse_broadcast.config.schema import CallerRule, Config
from sse_broadcast.config.sources import SETTINGS, ActiveSources, load
from sse_broadcast.server.runner import Server
from tests.conftest import Connect, Serve
from tests.support.sockets import RawClient

TOKEN = "a-token-of-forty-characters-at-the-least"
BEARER = f"Authorization: Bearer {TOKEN}\r\n"


async def config_of(client: RawClient, headers: str = BEARER) -> Any:
    status, body = await client.ask("GET", "/config", headers=headers)
    assert status == 200, body
    return json.loads(body)


async def test_every_setting_is_there_with_its_source(tmp_path: Path) -> None:
    """A flag, a variable, a file, or the default."""
    file = tmp_path / "config.toml"
    file.write_text(f'token = "{TOKEN}"\nqueue_size = 7\n[[channel]]\nmatch = "a*"\nhistory_size = 1\n')
    environ = {"SSE_BROADCAST_HEARTBEAT": "9"}
    loaded = load({"port": "0", "shutdown_timeout": "4"}, environ=environ, file=file)
    server = Server(loaded.config, sources=ActiveSources(loaded))
    await server.start()
    client = await RawClient.open(server.port)
    try:
        said = await config_of(client)
    finally:
        client.close()
        await server.stop()
    settings = {each["name"]: each for each in said["settings"]}
    assert list(settings) == list(SETTINGS)
    assert settings["queue_size"] == {
        "name": "queue_size",
        "value": 7,
        "default": 1000,
        "source": str(file),
        "help": SETTINGS["queue_size"].help,
        "restart": False,
    }
    assert (settings["heartbeat"]["source"], settings["heartbeat"]["restart"]) == (
        "SSE_BROADCAST_HEARTBEAT",
        True,
    )
    assert settings["port"]["source"] == "--port"
    assert settings["retry"]["source"] == "default"
    rule = {"match": "a*", "history_size": 1}
    assert said["tables"] == [{"name": "channel", "source": str(file), "tables": [rule], "restart": False}]


async def test_no_secret_is_shown(serve: Serve, connect: Connect) -> None:
    """Neither a token, nor a caller's, nor the key that tokens are signed with."""
    secrets = {"token": TOKEN, "token_secret": "s" * 40}
    caller = CallerRule(name="shop", token="c" * 40, publish=("a",))
    server = await serve(**secrets, caller=(caller,))
    client = await connect(server)
    status, body = await client.ask("GET", "/config", headers=BEARER)
    assert status == 200
    for secret in (TOKEN, "s" * 40, "c" * 40):
        assert secret.encode() not in body
    settings = {each["name"]: each["value"] for each in json.loads(body)["settings"]}
    assert settings["token"] == settings["token_secret"] == "(not shown)"


async def test_it_is_for_admin_alone(serve: Serve, connect: Connect) -> None:
    """Who may only ask about the server is not told how it is set up."""
    caller = CallerRule(name="watcher", token="w" * 40, inspect=("*",))
    server = await serve(token=TOKEN, caller=(caller,))
    client = await connect(server)
    assert (await client.ask("GET", "/config"))[0] == 401
    status, _ = await client.ask("GET", "/config", headers=f"Authorization: Bearer {'w' * 40}\r\n")
    assert status == 403


async def test_a_program_is_named_as_the_source(serve: Serve, connect: Connect) -> None:
    server = await serve(queue_size=7)
    sources = {
        each["name"]: each["source"] for each in (await config_of(await connect(server), ""))["settings"]
    }
    assert (sources["queue_size"], sources["retry"]) == ("program", "default")


async def test_a_reload_brings_new_sources(tmp_path: Path) -> None:
    """But not those of values that stay until a restart."""
    file = tmp_path / "config.toml"
    file.write_text("retry = 700\n")
    flags = {"port": "0", "shutdown_timeout": "4"}
    loaded = load(flags, environ={}, file=file)
    sources = ActiveSources(loaded)

    def again() -> Config:
        return sources.load(lambda: load(flags, environ={}, file=file))

    server = Server(loaded.config, load=again, sources=sources)
    await server.start()
    client = await RawClient.open(server.port)
    try:
        file.write_text("queue_size = 8\nheartbeat = 9.0\n")
        await server.reloader.reload()
        settings = {each["name"]: each for each in (await config_of(client, ""))["settings"]}
    finally:
        client.close()
        await server.stop()
    assert (settings["queue_size"]["value"], settings["queue_size"]["source"]) == (8, str(file))
    assert (settings["retry"]["value"], settings["retry"]["source"]) == (3000, "default")
    assert (settings["heartbeat"]["value"], settings["heartbeat"]["source"]) == (4.0, "default")
