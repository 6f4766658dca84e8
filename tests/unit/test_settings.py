"""What the settings refuse, in one line that names the variable and no value."""

import pytest

from lighthouse.errors import SettingsError
from lighthouse.settings import load


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@localhost:6379/0",
        "amqp://:secret@localhost:5672/0",
        "redis://:sec/ret@localhost:6379/0",
        "redis://:secret@localhost:port/0",
        "localhost:6379",
    ],
)
def test_a_broker_that_is_no_redis_is_refused_before_celery_reads_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL is no Redis URL; ") as refusal:
        load({"REDIS_URL": url}).require_redis()
    assert "sec" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://:a%2Fb@[::1]:6379/0", "redis://u:p@h:1/0?ssl_x=y"]
)
def test_a_redis_url_is_taken_as_it_is(url: str) -> None:
    assert load({"REDIS_URL": url}).require_redis() == url
