"""What an answer must be: comparisons, JSONPath and JSON Schema, and the bounds of their work."""

import json
import sys
import threading
import time
from typing import Any

import jsonpath_rfc9535
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lighthouse.errors import ConfigError
from lighthouse.model import MonitorType
from lighthouse.probes import parse_config
from lighthouse.probes.judging.assertions import (
    MOST_VALUES,
    Comparison,
    JsonExpectation,
    accepted_codes,
    compiled_path,
    find,
    headers_fault,
    parse_json,
)
from lighthouse.probes.judging.work import WorkLimitError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcxyz"), inner, max_size=4)
    ),
    max_leaves=20,
)


def fault(comparison: object, value: Any, **how: bool) -> str | None:
    return Comparison.model_validate(comparison).fault(value, **how)


@pytest.mark.parametrize(
    ("comparison", "good", "bad"),
    [
        (3, 3.0, 4),
        (True, True, 1),
        (1, 1, True),
        (None, None, 0),
        ("ok", "ok", "Ok"),
        ([1, {"a": 2}], [1.0, {"a": 2}], [1, {"a": "2"}]),
        ({"equal": {"a": 1}}, {"a": 1}, {"a": 1, "b": 2}),
        ({"not": 3}, 4, 3.0),
        ({"not": {"matches": "^a"}}, "ba", "ab"),
        ({"<": 10}, 9, 10),
        ({"<": 10}, "0x9", "0xa"),
        ({"<": "2026-06"}, "2026-05-31", "2026-06-01"),
        ({">": 1.5}, "1.50000000000000000001", 1.5),
        ({">": 10**30}, 10**30 + 1, 10**30),
        ({"<=": 10}, 10, 11),
        ({">=": 10}, 10, 9.99),
        ({">=": 0, "<": 5}, 4, 5),
        ({"matches": "^v[0-9]+$"}, "v12", "v1x"),
        ({"matches": "^12"}, 123, 312),
        ({"contains": "b"}, "abc", "xyz"),
        ({"contains": 2}, [1, 2.0], [1, "2"]),
        ({"contains": "k"}, {"k": None}, {"j": 1}),
        ({"type": "integer"}, 2.0, 2.5),
        ({"type": "number"}, 2.5, True),
        ({"type": "boolean"}, False, 0),
        ({"type": "string"}, "", None),
        ({"type": "object"}, {}, []),
        ({"type": "array"}, [], {}),
        ({"type": "null"}, None, False),
        ({"length": 2}, "añ", "abc"),
        ({"length": {">": 1}}, [1, 2], [1]),
        ({"length": 1}, {"a": 1}, 1),
    ],
)
def test_each_operator_holds_for_what_it_means_and_for_nothing_else(
    comparison: object, good: Any, bad: Any
) -> None:
    assert fault(comparison, good) is None
    told = fault(comparison, bad)
    assert told is not None
    assert "\n" not in told


def test_a_fault_says_what_was_found_and_what_was_expected() -> None:
    assert fault({"<": 10}, 12) == "is 12, expected less than 10"
    assert fault("ok", "bad\n\x1b[31m" + "x" * 500) == (
        'is "bad��[31m' + "x" * 70 + '…", expected "ok"'
    )
    assert fault({"length": {">": 2}}, [1]) == "has a length that is 1, expected more than 2"
    assert fault({"type": "string"}, [1]) == "is an array of 1, expected the type string"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"=": 3},
        {"<": True},
        {"<": [1]},
        {"matches": "(a"},
        {"matches": r"(a)\1"},
        {"type": "text"},
        {"length": {"longer": 1}},
        {"<": float("nan")},
    ],
)
def test_what_is_no_comparison_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        Comparison.model_validate(wrong)


def test_an_unknown_operator_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(
            MonitorType.HTTP,
            {"url": "https://x.example", "body_validation": {"json_path": {"$.a": {"==": 1}}}},
        )
    assert caught.value.field == "body_validation.json_path.$.a"
    assert "knows no operator '=='; those are equal, not, <, >, <=, >=" in str(caught.value)


@given(JSON)
def test_every_json_value_equals_itself_and_not_another_type(value: Any) -> None:
    wanted = {"equal": value}
    assert fault(wanted, value) is None
    assert fault({"not": wanted}, value) is not None
    assert fault(wanted, [value]) is not None


@given(st.integers(), st.integers())
def test_orderings_agree_with_the_integers_in_every_spelling(one: int, other: int) -> None:
    spellings: list[Any] = [one, str(one)]
    if 0 <= one < 2**256:
        spellings.append(hex(one))
    for value in spellings:
        assert (fault({"<": other}, value) is None) == (one < other)
        assert (fault({">=": other}, value) is None) == (one >= other)


def test_a_header_is_compared_as_text_with_its_case_and_parameters_ignored() -> None:
    headers = {"content-type": ("application/JSON; charset=utf-8",), "x-n": ("12",)}
    assert headers_fault("Content-Type", Comparison(equal="application/json"), headers) is None
    assert headers_fault("X-N", Comparison.model_validate({"<": 13, "equal": 12}), headers) is None
    assert headers_fault("X-N", None, headers) is None
    assert headers_fault("X-M", None, headers) == "header X-M is missing"
    assert headers_fault("X-M", Comparison.model_validate({"count": 0}), headers) is None
    assert headers_fault("X-N", Comparison.model_validate({"<": 12}), headers) == (
        'header X-N is "12", expected less than 12'
    )


def test_one_of_several_headers_may_be_as_told_but_none_may_be_what_is_forbidden() -> None:
    headers = {"via": ("one", "two")}
    assert headers_fault("via", Comparison(equal="two"), headers) is None
    assert headers_fault("via", Comparison.model_validate({"not": "three"}), headers) is None
    assert headers_fault("via", Comparison.model_validate({"not": "two"}), headers) is not None


def test_status_codes_are_single_families_and_ranges() -> None:
    assert accepted_codes((204, "3xx", "400-402")) == {204, *range(300, 400), 400, 401, 402}


@pytest.mark.parametrize(
    "given",
    [
        "b",
        None,
        [1, {"a": 2}],
        10**30,
        {"equal": {"a": None}},
        {"<": 3, "not": {"matches": "x"}},
        {"count": 0, "length": {">": 1, "not": 5}},
        {"equal": None, "type": "null"},
    ],
)
def test_a_comparison_is_stored_as_it_was_given(given: Any) -> None:
    comparison = Comparison.model_validate(given)
    stored = comparison.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert stored == given
    assert Comparison.model_validate(stored) == comparison


# -- JSON -------------------------------------------------------------------------------------


@given(JSON)
def test_what_json_writes_is_read_back(value: Any) -> None:
    text = json.dumps(value)
    if "Infinity" not in text:
        assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is empty, not JSON"),
        (b" \n", "is empty, not JSON"),
        (b"<html>", "is not JSON: "),
        (b'{"a": NaN}', "is not JSON: "),
        (b'{"a": 1234567890123456789012345, "b": NaN}', "is not JSON: NaN is no JSON number"),
        (b"\xff\xfe", "is not JSON: "),
        (b"[" * 50_000, "is nested more than 64 levels deep"),
        (b"[" * 65 + b"]" * 65, "is nested more than 64 levels deep"),
        (b"[" * 900 + b"]" * 900, "is nested more than 64 levels deep"),
        (b"[" * 2000 + b"]" * 2000, "is nested more than 64 levels deep"),
        (b"[" + b"0," * MOST_VALUES + b"0]", "holds more than 100000 JSON values"),
        (b"1" * 5000, "is not JSON: "),
    ],
)
def test_what_is_no_json_or_too_much_of_it_is_refused_in_one_line(
    body: bytes, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(body)
    told = str(caught.value)
    assert told.startswith(message)
    assert "\n" not in told
    assert len(told) < 200


def test_depth_and_commas_inside_texts_do_not_count() -> None:
    text = "[{,:" * MOST_VALUES
    assert parse_json(json.dumps({"text": text, "tail": '\\"'})) == {"text": text, "tail": '\\"'}
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_strings_are_told_from_values_whatever_they_hold() -> None:
    for text in ("\\", '\\"', '"', '\\\\","', '[{"a":1},'):
        document = [text * 3] * 1000 + [",:[" * MOST_VALUES]
        assert parse_json(json.dumps(document)) == document
    with pytest.raises(ValueError, match="holds more than"):
        parse_json(json.dumps(["\\"] * (MOST_VALUES + 1)))


def test_an_amount_of_any_length_stays_an_integer() -> None:
    amount = 123456789012345678901234567890
    assert parse_json(f'\ufeff{{"wei": {amount}}}') == {"wei": amount}


# -- JSONPath ---------------------------------------------------------------------------------

PATHS = [
    "$",
    "$.a",
    "$.a.b[0]",
    "$.*",
    "$..*",
    "$..a",
    "$[0, 'a', -1]",
    "$[::-1]",
    "$..[0:2]",
    "$[?@.a]",
    "$[?!@.a]",
    "$..[?@.a == @.b]",
    "$..[?@.a != 1 && @.b]",
    "$..[?@.a < 3 || @.x == null]",
    "$..[?@.a >= @.b]",
    "$[?length(@) > 1]",
    "$[?count(@..*) > 2]",
    "$[?value(@..a) == 'x']",
    "$..[?match(@, '[a-c]+')]",
    "$..[?search(@, 'b.')]",
    "$..[?@ == $.a]",
    "$[?@.a && (@.b || @.c)]",
]


@settings(max_examples=200)
@given(st.sampled_from(PATHS), JSON)
def test_counted_paths_select_what_the_library_itself_selects(path: str, document: Any) -> None:
    assert find(path, document) == jsonpath_rfc9535.find(path, document).values()


@pytest.mark.parametrize(
    "path", ["", "a", "$.", "$[", "$[?@.a ==]", "$[?foo(@)]", "$.a\x00", "$[?@.a == @..b]"]
)
def test_what_is_no_jsonpath_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="JSONPath"):
        compiled_path(path)


@pytest.mark.parametrize("path", ["$" + ".a" * 600, "$" + "[?@" * 30 + "]" * 30, "$[?" + "(" * 60])
def test_a_path_that_would_burden_its_parser_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"longer|nested|parts"):
        compiled_path(path)


WIDE = [{"a": n, "s": "a" * 30 + "!", "b": {"c": [n]}} for n in range(8000)]


@pytest.mark.parametrize(
    "path",
    [
        "$..[?@..x]",
        "$..[?$..[?$..[?@..x]]]",
        "$[?$..a]..[?$..b]",
        "$[?$ == $]",
        "$[*,*,*,*,*][*,*,*,*,*][*,*]",
    ],
)
def test_an_expensive_path_ends_at_its_limit(path: str) -> None:
    begun = time.thread_time()
    with pytest.raises(WorkLimitError):
        find(path, WIDE)
    assert time.thread_time() - begun < 3  # unbounded they take minutes to ages


def test_a_catastrophic_pattern_in_a_path_is_linear() -> None:
    document = [{"s": "a" * 100_000 + "!"}]
    assert find("$[?search(@.s, '^(a+)+$')]", document) == []
    assert find("$[?match(@.s, '(a|a)*!')]", document) == document
    assert find("$[?match(@.s, @.p)]", [{"s": "ab", "p": "a."}]) == [{"s": "ab", "p": "a."}]


def test_patterns_on_long_texts_count_as_work() -> None:
    with pytest.raises(WorkLimitError):
        find("$[?search($[0], 'x')]", ["a" * 100_000] + [0] * 1000)


def test_one_budget_serves_all_assertions_of_a_document() -> None:
    paths = {f"$..[?@..x{n}]": {"count": 0} for n in range(30)}
    expectation = JsonExpectation.model_validate({"json_path": paths})
    begun = time.thread_time()
    told = expectation.fault(WIDE)
    assert told == "$..[?@..x0] needs too much work on this document"
    assert all(not finding.ok for finding in expectation.findings(WIDE))
    assert time.thread_time() - begun < 6


def test_expensive_work_in_a_thread_lets_others_run() -> None:
    ticks = 0
    done = threading.Event()

    def work() -> None:
        with pytest.raises(WorkLimitError):
            find("$..[?@..x]", WIDE)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        time.sleep(0)
        ticks += 1
    thread.join()
    assert ticks > 100


# -- expectations -----------------------------------------------------------------------------


def expected(document: Any, **wanted: Any) -> str | None:
    return JsonExpectation.model_validate(wanted).fault(document)


def test_a_path_holds_when_every_selected_value_does_and_one_is_there() -> None:
    document = {"items": [{"n": 1}, {"n": 2}], "ok": True}
    assert expected(document, json_path={"$.ok": True, "$.items[*].n": {">": 0}}) is None
    assert expected(document, json_path={"$.items[*].n": {"<": 2}}) == (
        "$.items[*].n is 2, expected less than 2"
    )
    assert expected(document, json_path={"$.no": {"not": 1}}) == "$.no is missing"
    assert expected(document, json_path={"$.no[*]": 1}) == "$.no[*] selects nothing"


def test_count_tells_how_many_values_a_path_may_select() -> None:
    document = {"errors": [], "items": [1, 2]}
    assert expected(document, json_path={"$.errors[*]": {"count": 0}}) is None
    assert expected(document, json_path={"$.items[*]": {"count": {">": 1}, "<": 3}}) is None
    assert expected(document, json_path={"$.items[*]": {"count": 0}}) == (
        "$.items[*] selects a number of values that is 2, expected 0"
    )


def test_findings_tell_each_assertion_and_what_was_found() -> None:
    expectation = JsonExpectation.model_validate(
        {"json_path": {"$.a": 1, "$.b": {"<": 0}}, "json_schema": {"required": ["c"]}}
    )
    told = [(each.name, each.ok, each.found) for each in expectation.findings({"a": 1, "b": 2})]
    assert told == [
        ("body $.a", True, "1"),
        ("body $.b", False, "is 2, expected less than 0"),
        ("body json_schema", False, "$: 'c' is a required property"),
    ]


# -- JSON Schema ------------------------------------------------------------------------------

SCHEMAS: list[Any] = [
    True,
    False,
    {"type": "object"},
    {"type": ["array", "null"]},
    {"enum": [1, "a", None, [1]]},
    {"const": {"a": 1}},
    {"required": ["a"]},
    {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
    {"patternProperties": {"^[ab]": {"type": "number"}}, "additionalProperties": {"type": "null"}},
    {"items": {"type": "number"}, "uniqueItems": True},
    {"prefixItems": [{"type": "string"}], "items": False},
    {"contains": {"type": "boolean"}, "minContains": 2},
    {"minProperties": 1, "maxItems": 2, "minLength": 1, "maximum": 5},
    {"anyOf": [{"type": "string"}, {"minimum": 3}], "not": {"const": 4}},
    {"oneOf": [{"type": "integer"}, {"minimum": 2}]},
    {"if": {"type": "string"}, "then": {"maxLength": 2}, "else": {"type": "object"}},
    {"$ref": "#/$defs/t", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "type": "array"}}},
    {"allOf": [{"properties": {"a": True}}], "unevaluatedProperties": False},
    {"dependentRequired": {"a": ["b"]}, "propertyNames": {"maxLength": 3}},
    {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True},
    {"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": ["b"]}},
    {"type": "string", "pattern": "^[a-c]*$"},
]


@settings(max_examples=300)
@given(st.sampled_from(SCHEMAS), JSON)
def test_counted_schemas_judge_as_the_library_itself_does(schema: Any, document: Any) -> None:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    ours = expected(document, json_schema=schema) is None
    assert ours == kind(schema).is_valid(document)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "is no JSON Schema: at $.type"),
        ({"minimum": "3"}, "is no JSON Schema: at $.minimum"),
        ({"$ref": "https://example.com/x"}, "leaves the schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "leaves the schema"),
        ({"$ref": "#/$defs/none"}, "a reference to nothing"),
        ({"pattern": r"(a)\1"}, "is no RE2 pattern"),
        ({"patternProperties": {"(?=a)": True}}, "is no RE2 pattern"),
        ({"$schema": "https://example.com/mine"}, "a $schema that is not known"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft 3"),
        ({"properties": {"a": {"$id": "https://x.example/"}}}, "$id inside"),
        ({"patternProperties": {"a": True}, "unevaluatedProperties": False}, "together"),
        ({"description": "x" * 70_000}, "longer than 65536 bytes"),
    ],
)
def test_a_schema_is_checked_when_it_is_configured(schema: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(
            MonitorType.HTTP,
            {"url": "https://x.example", "body_validation": {"json_schema": schema}},
        )
    assert caught.value.field == "body_validation.json_schema"
    assert message in str(caught.value)


BOMB = {
    "$ref": "#/$defs/a0",
    "$defs": {
        **{f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)},
        "a30": False,
    },
}
SCREAMING = {"anyOf": [{"type": "string"}] * 500}


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        (BOMB, 1),
        ({"$ref": "#"}, 1),
        ({"items": {"uniqueItems": True}}, [[n * (2**61 - 1) for n in range(10**4)] for _ in "ab"]),
        ({"items": {"enum": [list(range(5000))]}}, [[*range(4999), 0]] * 50),
        (SCREAMING, {"a": "x" * 900_000}),
        ({"additionalProperties": False}, {str(n): n for n in range(50_000)}),
        ({"items": {"pattern": "^(a+)+$"}}, ["a" * 50_000 + "!"] * 20),
    ],
)
def test_no_schema_and_no_document_cost_more_than_the_budget(schema: Any, document: Any) -> None:
    begun = time.thread_time()
    told = expected(document, json_schema=schema)
    assert time.thread_time() - begun < 5
    assert told is None or len(told) < 600


def test_an_endless_schema_ends_before_the_stack_does() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)  # as libraries do; C's stack would end first
    try:
        told = expected(1, json_schema={"$ref": "#"})
    finally:
        sys.setrecursionlimit(limit)
    assert told is not None
    assert "too much work" in told


def test_a_schema_fault_says_where_it_is_and_shows_no_more_than_its_beginning() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}}
    assert expected({"a": [1, "x"]}, json_schema=schema) == (
        "json_schema $.a[1]: \"x\" is not of type 'integer'"
    )
    told = expected({"a": "x" * 10**6}, json_schema={"properties": {"a": {"type": "null"}}})
    assert told is not None
    assert len(told) < 300
