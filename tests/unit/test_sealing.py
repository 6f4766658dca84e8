"""Secrets of a configuration: sealed to be stored, opened to be used, starred to be shown."""

import json
import re
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from lighthouse import configs, sealing
from lighthouse.configs import SECRET_JSON, Secret
from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import MonitorType
from lighthouse.probes import parse_config, shown_config
from lighthouse.sealing import Keyring

OLD, NEW = (SecretStr(sealing.new_key()) for _ in range(2))
KEYS = Keyring([OLD])


class Login(BaseModel):
    kind: Literal["login"]
    password: Secret


class Token(BaseModel):
    kind: Literal["token"]
    token: Annotated[Secret, Field(min_length=2)] | int


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str
    headers: dict[str, Secret] = Field(default_factory=dict)
    body: Annotated[str | dict[str, Any] | list[Any] | None, SECRET_JSON] = None
    steps: list[Annotated[Login | Token, Field(discriminator="kind")]] = Field(default_factory=list)
    either: Secret | dict[str, Any] | None = None


FULL: dict[str, Any] = {
    "url": "https://example.com",
    "headers": {"Authorization": "s3cr3t-1"},
    "body": {"password": ["s3cr3t-2", 7]},
    "steps": [
        {"kind": "login", "password": "s3cr3t-3"},
        {"kind": "token", "token": "s3cr3t-4"},
        {"kind": "token", "token": 5},
    ],
    "either": "s3cr3t-5",
}


def stored(config: dict[str, Any], keys: Keyring = KEYS) -> dict[str, Any]:
    return configs.seal(configs.validated(Config, config), keys)


def test_no_secret_is_readable_in_what_is_stored_and_all_else_is() -> None:
    sealed = stored(FULL)
    text = json.dumps(sealed)
    assert "s3cr3t" not in text
    assert text.count(sealing.SEALED) == 5
    assert sealed["url"] == "https://example.com"
    assert sealed["steps"][2] == {"kind": "token", "token": 5}


def test_what_is_opened_is_what_was_given() -> None:
    assert configs.validated(Config, stored(FULL), KEYS) == configs.validated(Config, FULL)


def test_only_what_was_given_is_stored() -> None:
    assert stored({"url": "a", "body": None}) == {"url": "a", "body": None}


def test_the_same_secret_is_never_sealed_alike_twice() -> None:
    one, two = stored(FULL), stored(FULL)
    assert one["headers"]["Authorization"] != two["headers"]["Authorization"]


def test_without_keys_a_configuration_with_secrets_is_refused_and_another_is_not() -> None:
    with pytest.raises(SettingsError, match=r"^LIGHTHOUSE_SECRET_KEYS is not set") as refusal:
        stored(FULL, Keyring())
    assert "s3cr3t" not in str(refusal.value)
    assert stored({"url": "a"}, Keyring()) == {"url": "a"}


@pytest.mark.parametrize("keys", [Keyring(), Keyring([NEW])], ids=["no key", "another key"])
def test_what_no_key_opens_is_refused_by_its_field_without_the_token(keys: Keyring) -> None:
    with pytest.raises(ConfigError) as refusal:
        configs.validated(Config, stored(FULL), keys)
    assert refusal.value.field == "headers.Authorization"
    assert "LIGHTHOUSE_SECRET_KEYS" in str(refusal.value)
    assert "gAAAA" not in str(refusal.value)


def test_a_token_that_was_cut_or_replaced_is_refused() -> None:
    for token in ("", "gAAAA", 5, None, "ü"):
        config = {"url": "a", "headers": {"A": {sealing.SEALED: token}}}
        with pytest.raises(ConfigError, match=r"^headers.A: no key of LIGHTHOUSE_SECRET_KEYS"):
            configs.validated(Config, config, KEYS)


def test_a_sealed_value_cannot_be_given_so_a_stolen_one_is_of_no_use() -> None:
    token = stored(FULL)["headers"]["Authorization"]
    with pytest.raises(ConfigError, match=r"^headers.X: \$sealed is no value that can be given$"):
        configs.validated(Config, {"url": "a", "headers": {"X": token}})


def test_rows_from_before_the_keys_are_readable_and_sealed_at_the_rotation() -> None:
    assert configs.validated(Config, FULL, KEYS) == configs.validated(Config, FULL)
    sealed = configs.resealed(Config, FULL, KEYS)
    assert sealed is not None
    assert "s3cr3t" not in json.dumps(sealed)


def test_a_rotation_leaves_what_the_old_key_has_sealed_to_the_new_one_alone() -> None:
    both, new = Keyring([NEW, OLD]), Keyring([NEW])
    before = stored(FULL)
    assert configs.resealed(Config, before, KEYS) is None
    after = configs.resealed(Config, before, both)
    assert after is not None
    assert configs.validated(Config, after, new) == configs.validated(Config, FULL)
    assert configs.resealed(Config, after, both) is None


def test_what_is_shown_has_stars_for_secrets_sealed_or_not() -> None:
    starred = {
        "url": "https://example.com",
        "headers": {"Authorization": "***"},
        "body": "***",
        "steps": [
            {"kind": "login", "password": "***"},
            {"kind": "token", "token": "***"},
            {"kind": "token", "token": 5},
        ],
        "either": "***",
    }
    assert configs.shown(Config, stored(FULL), KEYS) == starred
    assert configs.shown(Config, FULL, Keyring()) == starred


def test_what_cannot_be_read_shows_no_text_at_all() -> None:
    for model, keys in ((Config, Keyring([NEW])), (None, KEYS)):
        shown = json.dumps(configs.shown(model, {**FULL, **stored(FULL)}, keys))
        assert "s3cr3t" not in shown
        assert "gAAAA" not in shown
        assert "example" not in shown


def test_what_is_no_key_is_refused_without_being_told() -> None:
    with pytest.raises(SettingsError, match=r"^LIGHTHOUSE_SECRET_KEYS: ") as refusal:
        Keyring([SecretStr("hunter2")])
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(KEYS)


def test_headers_and_body_of_http_are_secrets() -> None:
    given = {
        "url": "https://example.com/",
        "method": "POST",
        "headers": {"Authorization": "s3cr3t"},
        "body": {"password": "s3cr3t"},
    }
    sealed = configs.seal(parse_config(MonitorType.HTTP, given), KEYS)
    assert "s3cr3t" not in json.dumps(sealed)
    assert "s3cr3t" not in json.dumps(shown_config(MonitorType.HTTP, sealed, KEYS))
    assert parse_config(MonitorType.HTTP, sealed, KEYS) == parse_config(MonitorType.HTTP, given)


SIGN = {
    "name": "sign",
    "action": "sign",
    "key": "${KEY}",
    "typed_data": {
        "types": {"Note": [{"name": "text", "type": "string"}]},
        "primaryType": "Note",
        "domain": {"name": "x", "chainId": 2**70},
        "message": {"text": "hello"},
    },
    "extract": {"SIGNATURE": "$.signature"},
}
LOGIN = {
    "name": "log in",
    "action": "http",
    "method": "POST",
    "url": "https://example.com/login",
    "headers": {"Authorization": "Bearer s3cr3t"},
    "body": {"password": "s3cr3t", "amount": 2**70},
    "expect": {
        "status": "2xx",
        "headers": {"Content-Type": "application/json", "X-Any": None},
        "body": {"json_path": {"$.ok": True, "$.list": {"length": 2}, "$.none": None}},
    },
    "extract": {"TOKEN": "$.token", "ID": {"header": "X-Id"}},
}
SHOP = {"name": "later", "action": "wait", "seconds": 1, "when": {"steps": {"log in": "success"}}}


@pytest.mark.parametrize(
    ("type_", "given"),
    [
        (
            MonitorType.CANARY,
            {"secrets": {"KEY": "s3cr3t"}, "steps": [LOGIN, SIGN, SHOP], "timeout": 5},
        ),
        (
            MonitorType.HTTP,
            {
                "url": "https://example.com",
                "basic_auth": {"username": "u", "password": "s3cr3t"},
                "expected_headers": {"A": "b", "C": None, "D": {"matches": "x"}},
                "body_validation": {"json_path": {"$.a": {"more": 1, "less": 3}}},
                "valid_status_codes": ["2xx", 301],
            },
        ),
        (
            MonitorType.WEBSOCKET,
            {"url": "wss://example.com", "headers": {"A": "s3cr3t"}, "send": "s3cr3t"},
        ),
        (
            MonitorType.GRAPHQL,
            {
                "url": "https://example.com",
                "query": "{ a }",
                "variables": {"token": "s3cr3t"},
                "bearer_token": "s3cr3t",
            },
        ),
    ],
)
def test_whatever_a_monitor_is_told_comes_back_from_the_database(
    type_: MonitorType, given: dict[str, Any]
) -> None:
    model = parse_config(type_, given)
    sealed = json.loads(json.dumps(configs.seal(model, KEYS)))
    assert "s3cr3t" not in str(sealed)
    assert "s3cr3t" not in str(shown_config(type_, sealed, KEYS))
    read = parse_config(type_, sealed, KEYS)
    assert read == model
    assert configs.resealed(type(model), sealed, KEYS) is None


#: Fields that are called like secrets and are none.
_PUBLIC = {"Press.key", "Extraction.secret", "BalanceConfig.token"}


def test_every_field_that_is_called_like_a_secret_is_one() -> None:
    from lighthouse import channels, probes

    found: set[type[BaseModel]] = set()
    for kind in (*probes.MONITORS.values(), *channels.CHANNELS.values()):
        _collect(kind.config, found)
    clear = {
        f"{model.__name__}.{name}"
        for model in found
        for name, field in model.model_fields.items()
        if re.fullmatch(r".*(password|secret|token|key|certificate|webhook_url|rpc_urls)s?", name)
        and not any(issubclass(t, BaseModel) for t in _classes(field.annotation))
        and "_put_away" not in f"{field.annotation}{field.metadata}"
    }
    assert clear - _PUBLIC == set()
    assert {"HttpConfig", "CanaryConfig", "WebhookConfig"} <= {m.__name__ for m in found}


def _classes(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _classes(inner)]


def _collect(annotation: Any, found: set[type[BaseModel]]) -> None:
    for each in _classes(annotation):
        if issubclass(each, BaseModel) and each not in found:
            found.add(each)
            for field in each.model_fields.values():
                _collect(field.annotation, found)
