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
    """Whether credentials are configured, the actions allowed without one, and the name of the cookie."""

    secured: bool = False
    anonymous: Collection[Action] = ()
    cookie: str = ""

    def schemes(self) -> Mapping[str, Schema]:
        """Return the places of a credential, by the names that `security` uses."""
        if not self.secured:
            return {}
        schemes: dict[str, Schema] = {
            BEARER: {"type": "http", "scheme": "bearer", "description": "A static token, or a JWT."},
            QUERY: _in("query", IN_QUERY, "The token, for browsers, whose EventSource cannot send headers."),
        }
        if self.cookie:
            schemes[COOKIE] = _in("cookie", self.cookie, "The token. A publish also needs an allowed Origin.")
        return schemes

    def security(self, action: Action) -> Sequence[Requirement] | None:
        """Return the alternative requirements of an action, or None if no credentials are configured."""
        if not self.secured:
            return None
        usable = [name for name in self.schemes() if name != QUERY or action is Action.SUBSCRIBE]
        nothing: list[Requirement] = [{}] if action in self.anonymous else []
        return [*nothing, *({name: ()} for name in usable)]


def _in(place: str, name: str, description: str) -> Schema:
    return {"type": "apiKey", "in": place, "name": name, "description": description}
