"""Bearer tokens: valid and invalid texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_broadcast.auth.bearer_token import is_token
from sse_broadcast.client import Client


@given(token=st.from_regex(r"[A-Za-z0-9._~+/-]+=*", fullmatch=True))
def test_a_well_formed_token_is_accepted(token: str) -> None:
    assert is_token(token)
    Client(token=token)


@pytest.mark.parametrize("text", ["", "a b", "a\n", "\u00e9", "=a", "a=b", '"a"', "a!"])
def test_a_malformed_token_is_refused(text: str) -> None:
    assert not is_token(text)
