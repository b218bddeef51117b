"""What operations have in common, and their problems."""

import msgspec

from sse_broadcast.server.http.problem import STATUSES
from sse_broadcast.server.openapi.model import Operation, Parameter, Ref, Response
from sse_broadcast.server.openapi.operations import (
    WHEN,
    end,
    merge_paths,
    post_or_put,
    problems,
    read,
    responses,
    secured,
    write,
)


def test_problems_are_pointed_to_by_what_they_are_called() -> None:
    """The words of RFC 9110 for each status, in the order of the statuses."""
    assert list(problems(431, 422, 414, 413, 400).items()) == [
        ("400", Ref("#/components/responses/BadRequest")),
        ("413", Ref("#/components/responses/ContentTooLarge")),
        ("414", Ref("#/components/responses/URITooLong")),
        ("422", Ref("#/components/responses/UnprocessableContent")),
        ("431", Ref("#/components/responses/RequestHeaderFieldsTooLarge")),
    ]


def test_whatever_is_pointed_to_is_there() -> None:
    """Once."""
    named = {ref.to.removeprefix("#/components/responses/") for ref in problems(*WHEN).values()}
    assert named == set(responses())
    assert len(named) == len(WHEN)


def test_every_error_of_the_nouns_has_its_place() -> None:
    """A status that the code can give is one that the contract knows."""
    assert {status for _, status in STATUSES} <= set(WHEN)


OPERATION = Operation(
    "find", "Find it", "Here.", tags=["inspect"], responses={"200": Response("It.")}, security=[{}]
)
NAME = Parameter("name", "path", "Whose.", {}, required=True)


def test_head_is_get_by_another_name() -> None:
    """What is asked for and answered is the same."""
    path = read(OPERATION, NAME)
    assert path.get is OPERATION
    assert path.head is not None
    assert path.head.operation_id == "findHead"
    assert (
        msgspec.structs.replace(path.head, operation_id="find", summary="Find it", description="Here.")
        == OPERATION
    )


def test_put_is_post_by_another_name() -> None:
    """As HEAD is GET."""
    path = post_or_put(OPERATION, NAME)
    assert path.post is OPERATION
    assert path.put is not None
    assert (path.put.operation_id, path.put.responses) == ("findPut", OPERATION.responses)


def test_options_are_open_and_say_what_is_allowed() -> None:
    """Without a credential: a browser that asks beforehand sends none."""
    options = write(OPERATION).options
    assert options is not None
    assert options.security is None
    assert list(options.responses) == ["204", "400", "414", "417", "429", "431", "503"]
    allowed = options.responses["204"]
    assert isinstance(allowed, Response)
    assert allowed.headers["Allow"].required


def test_a_path_has_the_methods_it_is_for() -> None:
    """And its parameters once, for all of them."""
    methods = ("get", "head", "put", "post", "delete", "options")
    made = [read(OPERATION, NAME), write(OPERATION), post_or_put(OPERATION, NAME), end(OPERATION, NAME)]
    assert [[each for each in methods if getattr(path, each)] for path in made] == [
        ["get", "head", "options"],
        ["post", "options"],
        ["put", "post", "options"],
        ["delete", "options"],
    ]
    assert [path.parameters for path in made] == [(NAME,), (), (NAME,), (NAME,)]


def test_two_endpoints_may_do_something_at_one_path() -> None:
    """Each by methods and with credentials of its own; to ask which there are belongs to both."""
    ending = msgspec.structs.replace(OPERATION, operation_id="end", tags=["admin"])
    one, other = secured(read(OPERATION, NAME), [{}]), secured(end(ending, NAME), [{"bearer": ()}])
    path = merge_paths(one, other)
    assert (path.get, path.head, path.delete, path.parameters) == (one.get, one.head, other.delete, (NAME,))
    assert path.options is not None
    assert (path.options.operation_id, path.options.tags) == ("findOptions", ["inspect", "admin"])


def test_all_but_options_may_need_a_credential() -> None:
    """The same for each of a path's methods."""
    path = secured(post_or_put(OPERATION, NAME), [{"bearer": ()}])
    assert path.post is not None
    assert path.put is not None
    assert path.options is not None
    assert path.post.security == path.put.security == [{"bearer": ()}]
    assert path.options.security is None
    assert path.get is None


def test_options_look_at_no_name() -> None:
    """Whatever stands in the path, the methods are the same."""
    narrow = msgspec.structs.replace(NAME, schema={"type": "string", "pattern": "^a$"})
    path = read(OPERATION, narrow)
    assert path.options is not None
    assert [(each.name, each.schema) for each in path.options.parameters] == [("name", {"type": "string"})]
