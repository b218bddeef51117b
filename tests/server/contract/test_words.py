"""The words of OpenAPI, as JSON."""

import msgspec

from sse_broadcast.server.contract.words import Answer, Media, Operation, Parameter, Path, Ref


def test_a_word_is_these_bytes() -> None:
    """Each field under OpenAPI's name, and what says nothing left out."""
    path = Path(
        parameters=[Parameter("name", "path", "Whose.", {"type": "string"}, required=True)],
        get=Operation(
            "find",
            "Find it",
            responses={
                "200": Answer("It is here.", content={"text/plain": Media({})}),
                "404": Ref("#/components/responses/NotFound"),
            },
            security=[{}],
        ),
    )
    assert msgspec.json.encode(path) == (
        b'{"parameters":[{"name":"name","in":"path","description":"Whose.",'
        b'"schema":{"type":"string"},"required":true}],'
        b'"get":{"operationId":"find","summary":"Find it","responses":{'
        b'"200":{"description":"It is here.","content":{"text/plain":{"schema":{}}}},'
        b'"404":{"$ref":"#/components/responses/NotFound"}},"security":[{}]}}'
    )
