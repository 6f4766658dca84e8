"""Functions of contracts: what is read, what is refused, and what a hostile answer can cost."""

import time
from contextlib import suppress

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from lighthouse.probes.canary import abi


@pytest.mark.parametrize(
    ("signature", "takes", "returns"),
    [
        ("balanceOf(address)(uint256)", ("address",), ("uint256",)),
        ("balanceOf(address owner) external view returns (uint held)", ("address",), ("uint256",)),
        ("f()", (), ()),
        ("f((uint,address)[] memory x, bytes32 y)", ("(uint256,address)[]", "bytes32"), ()),
        ("f((uint a, (bool,int8[2] b) c)[3])", ("(uint256,(bool,int8[2]))[3]",), ()),
        (" f ( ) ( string , bytes[] ) ", (), ("string", "bytes[]")),
    ],
)
def test_a_signature_is_read(
    signature: str, takes: tuple[str, ...], returns: tuple[str, ...]
) -> None:
    found = abi.function(signature)
    assert (found.name, found.takes, found.returns) == (
        "f" if found.name == "f" else "balanceOf",
        takes,
        returns,
    )


@pytest.mark.parametrize(
    "signature",
    [
        "f",
        "f(",
        "f(uint",
        "f(foo)",
        "f(uint,)",
        "f(uint99)",
        "f(())",
        "f()(uint) x",
        "1f()",
        "f()(",
        "f()(uint[][])",
        "f()(bytes[100][])",
        "f()((string,string[])[])",
        "f()(uint[9999])",
        f"f({','.join(['uint'] * 41)})",
        f"f({'(' * 200}uint{')' * 200})",
    ],
)
def test_what_is_no_function_or_could_explode_is_refused(signature: str) -> None:
    with pytest.raises(ValueError) as caught:
        abi.function(signature)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="f(),[] 1uint8address", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        abi.function("f(" + text)


@given(st.binary(max_size=2000))
def test_any_answer_is_decoded_or_refused_at_once(answer: bytes) -> None:
    called = abi.function("f()(string[], (bytes, uint8[4])[], int256)")
    begun = time.perf_counter()
    with suppress(ValueError):
        assert len(abi.decoded(called, answer)) == 3
    assert time.perf_counter() - begun < 2


def test_pointers_that_all_lead_to_one_text_stay_bounded() -> None:
    text = b"a" * 3200
    heads = [(32 * 120).to_bytes(32, "big")] * 120
    answer = (32).to_bytes(32, "big") + len(heads).to_bytes(32, "big") + b"".join(heads)
    answer += len(text).to_bytes(32, "big") + text
    found = abi.decoded(abi.function("f()(string[])"), answer)
    assert [len(each) for each in found[0]] == [3200] * 120
    with pytest.raises(ValueError, match="longer than 8192"):
        abi.decoded(abi.function("f()(string[])"), answer + b"\0" * 4000)


def test_values_come_back_in_json_types() -> None:
    called = abi.function("f()(address,bytes4,int8,bool,string,(uint256,bytes)[])")
    answer = encode(
        called.returns,
        ["0x" + "AB" * 20, b"\x01\x02\x03\x04", -1, True, "ü", [(2**255, b"\xff")]],
    )
    assert abi.decoded(called, answer) == [
        "0x" + "ab" * 20, "0x01020304", -1, True, "ü", [[2**255, "0xff"]]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint8", "256"),
        ("uint8", -1),
        ("uint256", "abc"),
        ("uint256", True),
        ("uint256", 1.5),
        ("address", "0x12"),
        ("address", 5),
        ("bytes", "12"),
        ("bytes4", "0x1234567890"),
        ("bool", 1),
        ("uint8[]", "5"),
        ("(uint8,uint8)", [1]),
        ("uint8[2]", [1]),
        ("string", None),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError):
        abi.call_data(abi.function(f"f({kind})"), [value])
