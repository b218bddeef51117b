"""The contract of a server, read as a client would: what may be asked, whether an answer is as it says."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

import jsonschema_rs

METHODS = ("get", "head", "put", "post", "delete", "options")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, taken apart; the names of its headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, head: bytes, body: bytes = b"") -> "Answer":
        """Take an answer's head apart."""
        first, *lines = head.decode().split("\r\n")
        fields = (line.partition(":") for line in lines if line)
        return cls(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}, body)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that the contract gives as an example."""

    target: str
    headers: str = ""
    body: bytes = b""


class Operation:
    """One method at one path."""

    def __init__(self, document: Mapping[str, Any], path: str, method: str) -> None:
        self._document = document
        self._path = path
        self.method = method.upper()
        self.said = document["paths"][path][method]
        shared = document["paths"][path].get("parameters", [])
        own = self.said.get("parameters", [])
        # What the operation says of a parameter stands before what its path does.
        self.parameters = {(each["in"], each["name"]): each for each in [*shared, *own]}

    def __repr__(self) -> str:
        return f"{self.method} {self._path}"

    @property
    def statuses(self) -> set[int]:
        """What it may be answered with."""
        return {int(status) for status in self.said["responses"]}

    @property
    def target(self) -> str:
        """A target that there is."""
        path = self._path
        for (place, name), parameter in self.parameters.items():
            if place == "path":
                path = path.replace(f"{{{name}}}", _text(_values(parameter)[0]))
        return path

    def examples(self) -> Iterator[Asked]:
        """Yield a request for each example that the contract has, and one without any."""
        body = b"x" if "requestBody" in self.said else b""
        if not self.said.get("requestBody", {}).get("required", False):
            yield Asked(self.target, body=body)
        for (place, name), parameter in self.parameters.items():
            for value in _values(parameter):
                if place == "query":
                    yield Asked(f"{self.target}?{urlencode({name: value}, doseq=True)}", body=body)
                elif place == "header":
                    yield Asked(self.target, f"{name}: {value}\r\n", body)
        for kind, media in self.said.get("requestBody", {}).get("content", {}).items():
            for value in _values(media):
                text = value if isinstance(value, str) else json.dumps(value)
                yield Asked(self.target, f"Content-Type: {kind}\r\n", text.encode())

    def asked(self, headers: str = "") -> Asked:
        """Return a request that is good, with some headers more."""
        first = next(self.examples())
        return Asked(first.target, first.headers + headers, first.body)

    def require(self, answer: Answer) -> None:
        """Fail, unless an answer is one that the contract tells of."""
        said = self._resolved(self.said["responses"][str(answer.status)])
        for name, header in said.get("headers", {}).items():
            assert not header.get("required") or name.lower() in answer.headers, (self, answer)
        content = said.get("content")
        if content is None:
            assert answer.body == b"", (self, answer)
            return
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in content, (self, answer)
        if kind.endswith("json") and answer.body:
            self.validator(content[kind]["schema"]).validate(json.loads(answer.body))

    def describes(self, url: str, headers: Mapping[str, str], body: str | None) -> bool:
        """Whether a request, as it was sent, is one that the contract has."""
        sent = self._sent(urlsplit(url), headers)
        known = [(self.parameters[key], values) for key, values in sent.items() if key in self.parameters]
        return self._takes(headers.get("Content-Type"), body) and all(self._allows(*each) for each in known)

    def _sent(self, target: SplitResult, headers: Mapping[str, str]) -> Mapping[tuple[str, str], list[str]]:
        query = parse_qs(target.query, keep_blank_values=True)
        return {
            **{("query", name): values for name, values in query.items()},
            **{("header", name): [headers[name]] for _, name in self.parameters if name in headers},
            **{("path", name): [value] for name, value in self._in_path(target.path).items()},
        }

    def _in_path(self, path: str) -> Mapping[str, str]:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]*)", re.escape(self._path))
        found = re.search(f"{pattern}$", path)
        assert found is not None, path
        return {name: unquote(value) for name, value in found.groupdict().items()}

    def _allows(self, parameter: Mapping[str, Any], values: Sequence[str]) -> bool:
        schema = parameter["schema"]
        if schema["type"] == "array":
            items = values[0].split(",") if parameter["in"] == "path" else list(values)
            return self.validator(schema).is_valid(items)
        if len(values) > 1:
            return False
        number = schema["type"] == "integer" and values[0].isdecimal()
        return self.validator(schema).is_valid(int(values[0]) if number else values[0])

    def _takes(self, kind: str | None, body: str | None) -> bool:
        said = self.said.get("requestBody", {"content": {}})
        if not body:
            return not said.get("required", False)
        if not said["content"] or kind == "text/plain":
            return True
        try:
            return self.validator(said["content"][kind]["schema"]).is_valid(json.loads(body))
        except (KeyError, ValueError):
            return False

    def validator(self, schema: Mapping[str, Any]) -> jsonschema_rs.Validator:
        """Return what checks a value against a schema of the document."""
        return jsonschema_rs.validator_for({**schema, "components": self._document["components"]})

    def _resolved(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        if "$ref" not in answer:
            return answer
        name = answer["$ref"].removeprefix("#/components/responses/")
        found: Mapping[str, Any] = self._document["components"]["responses"][name]
        return found


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Return every operation of a contract."""
    pairs = itertools.product(document["paths"], METHODS)
    return [Operation(document, path, method) for path, method in pairs if method in document["paths"][path]]


def _values(described: Mapping[str, Any]) -> list[Any]:
    return [example["value"] for example in described.get("examples", {}).values()]


def _text(value: Any) -> str:
    return quote(",".join(value) if isinstance(value, list) else value, safe=",")
