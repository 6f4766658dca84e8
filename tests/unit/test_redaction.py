"""No form in which a target may echo a secret is shown."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lighthouse.probes.canary.redaction import MASK, Redactor

SECRETS = st.text(min_size=6, max_size=40).filter(lambda text: text.isprintable())


@given(SECRETS, st.binary(max_size=5), st.binary(max_size=5))
def test_a_secret_is_found_in_base64_wherever_it_begins(
    secret: str, before: bytes, after: bytes
) -> None:
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    shown = Redactor([secret]).text(f"got {encoded}")
    assert shown is not None
    assert MASK in shown
    assert len(shown) < len(f"got {encoded}")


@given(SECRETS)
def test_a_secret_is_found_in_every_usual_encoding(secret: str) -> None:
    redactor = Redactor([secret])
    for form in (
        secret,
        quote(secret, safe=""),
        quote(secret, safe="").lower(),
        quote_plus(secret),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        secret.encode().hex(),
        secret.encode().hex().upper(),
    ):
        assert redactor.text(f"<{form}>") == f"<{MASK}>"


@pytest.mark.parametrize("text", ["it says s3cr3", "it says s3cr3t-va… and more", "s3cr"])
def test_a_secret_that_was_cut_is_hidden(text: str) -> None:
    shown = Redactor(["s3cr3t-value"]).text(text)
    assert shown is not None
    assert "s3cr" not in shown


def test_a_key_is_hidden_with_and_without_its_prefix() -> None:
    redactor = Redactor(["0x" + "aB" * 32])
    assert redactor.text("key " + "ab" * 32 + "!") == f"key {MASK}!"


def test_texts_without_secrets_stay_as_they_are() -> None:
    assert Redactor(["s3cr3t"]).text("nothing here… at all") == "nothing here… at all"
    assert Redactor().text("x") == "x"
    assert Redactor(["s3cr3t"]).text(None) is None
    assert Redactor(["abc"]).text("abc") == "abc"  # too short to be told from chance
