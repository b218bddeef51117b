"""Secrets in files and variables."""

from pathlib import Path

import pytest

from sse_broadcast.auth.secret_sources import MAX_FILE, read_bytes, read_secret_text, read_variable
from sse_broadcast.errors import ConfigError
from tests.support.raising import exactly


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\n\n", "secret\n"),
        (b" secret ", " secret "),
        (b"\xc3\xa9", "\xe9"),
        (b"", ""),
    ],
)
def test_a_secret_is_the_content_of_its_file(tmp_path: Path, data: bytes, text: str) -> None:
    """One line end, which editors and echo add, is removed."""
    (tmp_path / "secret").write_bytes(data)
    assert read_secret_text(str(tmp_path / "secret"), setting="token_file") == text


def test_a_file_that_cannot_be_read_is_named_with_its_setting(tmp_path: Path) -> None:
    """Several settings may name files."""
    with pytest.raises(ConfigError) as raised:
        read_secret_text(f"{tmp_path}/none", setting="token_file")
    assert str(raised.value) == f"token_file: '{tmp_path}/none' cannot be read: No such file or directory"
    with pytest.raises(ConfigError, match=exactly(f"jwt_jwks: '{tmp_path}' cannot be read: Is a directory")):
        read_bytes(str(tmp_path), setting="jwt_jwks")
    with pytest.raises(ConfigError, match=exactly(r"jwt_jwks: 'a\x00b' cannot be read: embedded null byte")):
        read_bytes("a\0b", setting="jwt_jwks")


def test_a_binary_file_is_refused_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"ab\xffcd")
    with pytest.raises(ConfigError, match=exactly(f"token_file: '{tmp_path}/secret' is not UTF-8 at byte 2")):
        read_secret_text(str(tmp_path / "secret"), setting="token_file")


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"x" * MAX_FILE)
    assert read_bytes(str(file), setting="jwt_jwks") == b"x" * MAX_FILE
    file.write_bytes(b"x" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match=exactly(f"jwt_jwks: '{file}' has more than 65536 bytes")):
        read_bytes(str(file), setting="jwt_jwks")
    with pytest.raises(ConfigError):
        read_bytes("/dev/zero", setting="jwt_jwks")


def test_a_variable_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret\n")
    assert read_variable("A_TOKEN", setting="token_env") == "secret\n"
    monkeypatch.delenv("A_TOKEN")
    with pytest.raises(
        ConfigError, match=exactly("token_env: the environment variable 'A_TOKEN' is not set")
    ):
        read_variable("A_TOKEN", setting="token_env")
