"""The cookies of a flow: where each may go, and how many there may be."""

import pytest

from lighthouse.probes.canary.cookies import MOST_COOKIES, Jar

SHOP = "https://shop.example/account/login"


@pytest.mark.parametrize(
    ("line", "url", "sent"),
    [
        ("a=1", "https://shop.example/account/x", "a=1"),
        ("a=1", "https://shop.example/other", None),
        ("a=1; Path=/", "https://shop.example/other", "a=1"),
        ("a=1; Path=/acc", "https://shop.example/account/x", None),
        ("a=1; Path=/", "https://www.shop.example/", None),
        ("a=1; Path=/", "https://example/", None),
        ("a=1; Path=/; Domain=shop.example", "https://www.shop.example/", "a=1"),
        ("a=1; Path=/; Domain=.SHOP.example", "https://www.shop.example/", "a=1"),
        ("a=1; Path=/; Domain=shop.example", "https://evilshop.example/", None),
        ("a=1; Path=/; Domain=other.example", "https://other.example/", None),
        ("a=1; Path=/; Domain=www.shop.example", "https://www.shop.example/", None),
        ("a=1; Path=/; Domain=example", "https://other.example/", None),
        ("a=1; Path=/; Secure", "https://shop.example/", "a=1"),
        ("a=1; Path=/; Secure", "http://shop.example/", None),
        ("a=1; Path=/; Max-Age=5", "https://shop.example/", "a=1"),
        ("a=1; Path=/; Max-Age=0", "https://shop.example/", None),
        ("a=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "https://shop.example/", None),
        ("a=1; Path=/; Expires=Thu, 01-Jan-2099 00:00:00 GMT", "https://shop.example/", "a=1"),
        ("a=1; Path=/; Expires=nonsense", "https://shop.example/", "a=1"),
        ("a=b=c; Path=/", "https://shop.example/", "a=b=c"),
        ("alone; Path=/", "https://shop.example/", "alone"),
        ("; Path=/", "https://shop.example/", None),
        ("a=1\r\nX: y; Path=/", "https://shop.example/", None),
        ("a=" + "x" * 5000 + "; Path=/", "https://shop.example/", None),
        ("__Host-a=1; Path=/; Secure", "https://shop.example/", "__Host-a=1"),
        ("__Host-a=1; Path=/; Secure; Domain=shop.example", "https://shop.example/", None),
        ("__Secure-a=1; Path=/", "https://shop.example/", None),
    ],
)
def test_a_cookie_goes_only_where_its_server_may_send_it(
    line: str, url: str, sent: str | None
) -> None:
    jar = Jar()
    jar.store(SHOP, [line], now=0.0)
    assert jar.header(url, now=1.0) == sent


def test_a_secure_cookie_is_not_taken_from_plain_http() -> None:
    jar = Jar()
    jar.store("http://shop.example/", ["a=1; Secure"])
    assert jar.header("https://shop.example/") is None


def test_a_cookie_ends_at_its_time() -> None:
    jar = Jar()
    jar.store(SHOP, ["a=1; Max-Age=5; Path=/"], now=0.0)
    assert jar.header(SHOP, now=4.9) == "a=1"
    assert jar.header(SHOP, now=5.0) is None


def test_a_later_cookie_replaces_its_namesake_and_the_more_exact_path_comes_first() -> None:
    jar = Jar()
    jar.store(SHOP, ["a=1; Path=/", "b=2; Path=/account"])
    jar.store(SHOP, ["a=3; Path=/"])
    assert jar.header(SHOP) == "b=2; a=3"
    assert jar.by_name() == {"b": "2", "a": "3"}
    jar.store(SHOP, ["b=; Path=/account; Max-Age=-1"])
    assert jar.header(SHOP) == "a=3"


def test_an_address_takes_no_cookie_for_a_part_of_it() -> None:
    jar = Jar()
    jar.store("http://127.0.0.1/", ["a=1; Domain=0.0.1", "b=2; Domain=127.0.0.1"])
    assert jar.header("http://127.0.0.1/") == "b=2"


def test_a_flood_of_cookies_is_bounded() -> None:
    jar = Jar()
    for turn in range(3):
        jar.store(SHOP, [f"c{turn}-{n}={'x' * 1000}; Path=/" for n in range(1000)])
    assert len(jar.by_name()) == MOST_COOKIES
    header = jar.header(SHOP)
    assert header is not None
    assert len(header) <= 16_384
