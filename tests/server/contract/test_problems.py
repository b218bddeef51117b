"""Errors, as the contract has them."""

from sse_broadcast.server.contract.problems import WHEN, problems, responses
from sse_broadcast.server.contract.words import Ref
from sse_broadcast.server.problem import STATUSES


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
