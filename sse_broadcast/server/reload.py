"""Reload, by SIGHUP or POST /reload: apply another configuration completely, or not at all."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from aiohttp import web

from sse_broadcast.auth.principal import Action
from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import ConfigChange, change_of
from sse_broadcast.errors import BroadcastError, CertificateError, ClosedError, ConfigError, ListenError
from sse_broadcast.server.access.authorization import require_permission
from sse_broadcast.server.assembly import build_services, kept_token
from sse_broadcast.server.http.problem import Problem
from sse_broadcast.server.http.responses import Reloaded, answered
from sse_broadcast.server.services import ACTIVE_SERVICES, BROADCASTER, SHARES, STREAM_EXPIRY, Services

logger = logging.getLogger("sse_broadcast.reload")

READ_TIMEOUT = 10.0
"""Maximum seconds to read the files: a network disk may be away."""

T = TypeVar("T")

Commit = Callable[[], None]
"""Applies a prepared configuration. It must neither wait nor raise."""

PreparePart = Callable[[Config], Commit]
"""Prepares a part for a configuration without changing it. Raises `BroadcastError` if it cannot."""


class Reloader:
    """Reads the configuration with `load` and applies it, one reload after another.

    Everything that may fail comes first. Then all changes happen between two turns of the loop, and open
    streams stay. `parts` prepare what the application itself does not own. Settings that need a restart keep
    their values. Belongs to one event loop; `load` is called in a thread.
    """

    def __init__(self, app: web.Application, load: Callable[[], Config]) -> None:
        self.parts: list[PreparePart] = []
        self.around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Returns a context manager that is entered for each reload."""
        self.turn = asyncio.Lock()
        """Held by a reload, or by the start of the server, which delays reloads."""
        self._app = app
        self._load = load
        self._tasks: set[asyncio.Task[ConfigChange]] = set()
        self._waiting: asyncio.Task[ConfigChange] | None = None
        self._closed = False

    async def reload(self) -> ConfigChange:
        """Reload and return the changes. The reload continues if the caller is cancelled.

        Raises `BroadcastError` for a configuration that cannot be used, and `ClosedError` after or during
        `close`.
        """
        # Concurrent callers share a reload that has not started: it will read the same files.
        self._require_open()
        task = self._next()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                self._require_open()
            raise

    def ask(self) -> None:
        """Reload soon, without waiting for the result."""
        if self._closed:
            logger.warning("reload: ignored, the server is shutting down")
        else:
            self._next()

    async def close(self) -> None:
        """Cancel running reloads, and refuse further ones."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _next(self) -> asyncio.Task[ConfigChange]:
        if self._waiting is None:
            self._waiting = task = asyncio.create_task(self._reload())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(_retrieve)
        return self._waiting

    async def _reload(self) -> ConfigChange:
        async with self.turn:
            self._waiting = None
            self._require_open()
            with self.around():
                return await self._try()

    async def _try(self) -> ConfigChange:
        try:
            change = await self._replace()
        except BroadcastError as error:
            logger.error(  # noqa: TRY400 - a fault in a file needs no traceback
                "reload: nothing changed: %(reason)s", {"reason": str(error)}
            )
            raise
        _tell(change)
        return change

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the server is shutting down")

    async def _replace(self) -> ConfigChange:
        before = self._app[ACTIVE_SERVICES].services
        change = change_of(before.config, await _read(self._load))
        token = kept_token(change.config, before)
        services = await _read(
            functools.partial(build_services, change.config, generated=token, before=before)
        )
        try:
            commits = [prepare(change.config) for prepare in self.parts]
            await _start(services, before)
        except BaseException:
            await services.authenticator.close()
            raise
        self._commit(services, commits)
        if before.generated is not None and services.generated is None:
            logger.warning("reload: the token generated at the start is no longer valid")
        await before.authenticator.close()
        return change

    def _commit(self, services: Services, commits: Sequence[Commit]) -> None:
        """Apply the new services everywhere."""
        # No await in here: a request must never see one part changed and another not.
        self._app[ACTIVE_SERVICES].services = services
        self._app[STREAM_EXPIRY].limit(services.config)
        self._app[SHARES].configure(services.config)
        self._app[BROADCASTER].reload(services.config)
        for commit in commits:
            commit()


RELOADER: web.AppKey[Reloader] = web.AppKey("sse_broadcast.reloader", Reloader)


async def _read(files: Callable[[], T]) -> T:
    """Call `files` in a thread and return its result. Raises `ConfigError` after `READ_TIMEOUT`."""
    try:
        async with asyncio.timeout(READ_TIMEOUT):
            return await asyncio.to_thread(files)
    except TimeoutError:
        raise ConfigError(f"cannot read the files within {READ_TIMEOUT:g} seconds") from None


async def _start(services: Services, before: Services) -> None:
    """Start fetching the JWKS. Raises `ConfigError` if a new one cannot be read."""
    await services.authenticator.start()
    if services.config.jwt_jwks != before.config.jwt_jwks:
        services.authenticator.require_keys()


def _tell(change: ConfigChange) -> None:
    changed, restart = ", ".join(change.changed), ", ".join(change.restart)
    logger.info("reload: changed: %(changed)s", {"changed": changed or "nothing"})
    if restart:
        logger.warning("reload: unchanged until a restart: %(restart)s", {"restart": restart})


def _retrieve(task: asyncio.Task[ConfigChange]) -> None:
    """Log an unexpected error of a reload that nobody may have waited for."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, BroadcastError):
        logger.error("reload: failed with an unexpected error", exc_info=error)


async def post_reload(request: web.Request) -> web.Response:
    """Reload, and answer with the changed settings."""
    require_permission(request, Action.ADMIN)
    if request.body_exists:
        raise Problem(400, f"{request.method} {request.path} takes no body", closes=True)
    try:
        change = await request.app[RELOADER].reload()
    except (ConfigError, CertificateError, ListenError) as error:
        raise Problem(422, str(error)) from None
    response = answered(Reloaded("reloaded", change.changed, change.restart))
    response.headers["Cache-Control"] = "no-store"
    return response
