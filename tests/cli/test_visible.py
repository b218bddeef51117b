"""Text from other parties on a terminal."""

import sys

import pytest

from sse_broadcast.cli.visible import VisibleBytes, say, tell, visible


@pytest.mark.parametrize(
    "code", [*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x202A, 0x202E, 0x2066, 0x2069]
)
def test_control_characters_are_escaped(code: int) -> None:
    """The escapes are those of JSON, so that a JSON line stays one."""
    assert visible(f"a{chr(code)}b") == f"a\\u{code:04x}b"


@pytest.mark.parametrize(
    "text", ["a\tb\nc", "é", "\u0645\u06cc\u200c\u062e", "\U0001f468\u200d\U0001f469", "\\u001b"]
)
def test_printable_text_is_unchanged(text: str) -> None:
    assert visible(text) == text


def test_a_character_in_two_chunks_is_complete() -> None:
    shown = VisibleBytes()
    data = "é\U0001f600\x9b".encode() + b"\x9b\xff."
    assert b"".join(shown.show(bytes([each])) for each in data).decode() == "é\U0001f600\\u009b\\x9b\\xff."


def test_output_for_a_program_is_unchanged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say("a\x9bb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    say("a\x9bb")
    tell("a\x9bb")
    assert capsys.readouterr() == ("a\x9bb\na\\u009bb\n", "sse-broadcast: a\\u009bb\n")
