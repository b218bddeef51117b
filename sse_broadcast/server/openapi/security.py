"""Security schemes: the credentials that the server accepts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sse_broadcast.auth.principal import Action
from sse_broadcast.server.access.authorization import IN_QUERY
from sse_broadcast.server.openapi.model import Requirement, Schema

BEARER = "bearer"
QUERY = "query"
COOKIE = "cookie"


@dataclass(frozen=True, slots=True)
class SecuritySchemes:
    """Whether there are credentials (`secured`), what is done without one, and the cookie for them."""

    secured: bool = False
    anonymous: Collection[Action] = ()
    cookie: str = ""

    def schemes(self) -> Mapping[str, Schema]:
        """Return where a credential may be, by the names that `security` uses."""
        if not self.secured:
            return {}
        schemes: dict[str, Schema] = {
            BEARER: {"type": "http", "scheme": "bearer", "description": "A static token, or a JWT."},
            QUERY: _in("query", IN_QUERY, "The token, where a browser can send no header."),
        }
        if self.cookie:
            schemes[COOKIE] = _in(
                "cookie", self.cookie, "The token; to publish, an Origin that is let in as well."
            )
        return schemes

    def security(self, action: Action) -> Sequence[Requirement] | None:
        """Return what an action may be asked for with, each an alternative; None if nothing is needed."""
        if not self.secured:
            return None
        usable = [name for name in self.schemes() if name != QUERY or action is Action.SUBSCRIBE]
        nothing: list[Requirement] = [{}] if action in self.anonymous else []
        return [*nothing, *({name: ()} for name in usable)]


def _in(place: str, name: str, description: str) -> Schema:
    return {"type": "apiKey", "in": place, "name": name, "description": description}
