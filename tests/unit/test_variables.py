"""Templates: every reference is replaced once, nothing that a value holds is read again."""

import base64
import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lighthouse import variables
from lighthouse.variables import escape, names, substitute, substitute_json

#: Texts that look like templates more often than chance would have it.
TEXTS = st.text() | st.lists(
    st.sampled_from(["$", "{", "}", "${", "$${", "A", "NOW", "+1", "|base64", "|", "${A}", "${B}"])
).map("".join)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


@given(TEXTS)
def test_an_escaped_text_stands_for_itself(text: str) -> None:
    assert substitute(escape(text), {}) == text
    assert names(escape(text)) == frozenset()


@given(TEXTS, JSON, JSON)
def test_substitution_is_total_once_its_names_have_values(text: str, one: Any, two: Any) -> None:
    values = {"A": one, "B": two, "NOW": 5}
    assert isinstance(substitute(text, values), str)
    assert isinstance(substitute(text, values, quoted=True), str)


@given(JSON, JSON)
def test_a_value_is_never_read_again(one: Any, two: Any) -> None:
    values = {"A": one, "B": two}
    text = variables.text_of(one)
    assert substitute("<${A}>", values) == f"<{text}>"
    assert substitute_json({"k": ["${A}", "x${A}"]}, values) == {"k": [one, "x" + text]}


@given(TEXTS)
def test_a_quoted_value_stays_in_its_place_of_a_url(text: str) -> None:
    found = substitute("/a/${A}/b?c=${A}", {"A": text}, quoted=True)
    assert found.count("/") == 3
    assert found.count("?") == 1
    assert not set(found[3:]) & set("#& \r\n\\@:")
    value = found.removeprefix("/a/").partition("/b?c=")[0]
    assert unquote(value) == text.encode("utf-8", "replace").decode()


@given(JSON)
def test_a_json_value_without_references_stays_as_it_is(value: Any) -> None:
    def escaped(inner: Any) -> Any:
        if isinstance(inner, str):
            return escape(inner)
        if isinstance(inner, list):
            return [escaped(each) for each in inner]
        if isinstance(inner, dict):
            return {key: escaped(each) for key, each in inner.items()}
        return inner

    assert substitute_json(escaped(value), {}) == value


@given(TEXTS)
def test_the_names_that_are_told_are_the_ones_that_are_needed(text: str) -> None:
    try:
        needed = names(text)
    except ValueError:
        return
    values = dict.fromkeys(needed, 1)
    substitute(text, values)
    for name in needed:
        with pytest.raises(variables.UnsetVariable) as caught:
            substitute(text, {key: 1 for key in needed if key != name})
        assert caught.value.name == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "x y"),
        ("${A}-${B}", 'x y-{"n":[1,null]}'),
        ("${A|base64}", "eCB5"),
        ("${B|base64}", base64.b64encode(b'{"n":[1,null]}').decode()),
        ("${A|json}", '"x y"'),
        ("${A|url}", "x%20y"),
        ("${A|json|url}", "%22x%20y%22"),
        ("${U|base64url}", "w7_Drw"),
        ("${A|raw}", "x y"),
        ("${NOW+60} ${NOW-1}", "1060 999"),
        ("$${A}", "${A}"),
        ("$A $5 $$ {A}", "$A $5 $$ {A}"),
    ],
)
def test_a_text_is_filled_in(text: str, expected: str) -> None:
    values = {"A": "x y", "B": {"n": [1, None]}, "NOW": 1000, "U": "ÿï"}
    assert substitute(text, values) == expected


def test_a_whole_reference_keeps_its_type_unless_it_is_filtered() -> None:
    values = {"A": {"n": 1}, "NOW": 1000}
    found = substitute_json(["${A}", " ${A}", "${A|json}", "${NOW+1}"], values)
    assert found == [{"n": 1}, ' {"n":1}', '{"n":1}', 1001]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${}", "without a name"),
        ("a ${A", "without a name"),
        ("${A.b}", "without a name"),
        ("${1A}", "without a name"),
        ("${A} ${", "without a name"),
        ("${A|nope}", "unknown filter"),
        ("${A+1}", "is no clock"),
        ("${" + "A" * 65 + "}", "without a name"),
    ],
)
def test_a_reference_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names(text)
    with pytest.raises(ValueError, match=message):
        names({"k": [text]})


def test_a_text_that_grows_beyond_its_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than"):
        substitute("${A}" * 100, {"A": "x" * 10_000})


def test_names_are_found_in_every_text_of_a_value() -> None:
    assert names({"a": ["${A}", {"b": "x${B|json}$${C}"}], "${K}": 1}) == {"A", "B"}
    assert json.dumps(sorted(variables.BUILT_IN)) == '["NONCE", "NOW", "NOW_MS", "RUN_ID"]'
