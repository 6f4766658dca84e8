"""What a `browser` step may be asked to do: its actions, their options and their variables."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from lighthouse import urls, variables
from lighthouse.configs import Secret
from lighthouse.model import Reason
from lighthouse.probes.canary.steps import Flow, StepConfig, StepFault

MEBIBYTE = 1024 * 1024
MOST_ACTIONS = 50

Selector = Annotated[str, Field(min_length=1, max_length=1000)]


class Action(BaseModel):
    """What all actions have in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        str_max_length=65_536,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    timeout: float = Field(
        default=5.0, ge=0.1, le=120.0, description="Seconds that it may wait for the page."
    )


class Open(Action):
    """Goes to a page and waits until it has loaded; a status of 400 or more is a failure."""

    do: Literal["open"] = Field(description="Go to `url`.")
    url: str = Field(
        min_length=1, max_length=urls.MOST_URL_CHARS, description="http:// or https://."
    )
    timeout: float = Field(
        default=30.0, ge=0.1, le=120.0, description="Seconds in which it must have loaded."
    )


class Click(Action):
    """Clicks an element as soon as it can be clicked."""

    do: Literal["click"] = Field(description="Click the element.")
    selector: Selector = Field(description="CSS, text=… or //xpath; the first that matches.")


class Fill(Action):
    """Puts a value into a field."""

    do: Literal["fill"] = Field(description="Put `value` into the element.")
    selector: Selector = Field(description="Of an input, textarea or contenteditable.")
    value: Secret = Field(description="What to put in.")


class Press(Action):
    """Presses a key."""

    do: Literal["press"] = Field(description="Press `key`.")
    key: str = Field(min_length=1, max_length=50, description="Enter, Tab, a, Control+A, …")
    selector: Selector | None = Field(
        default=None, description="The element that gets it; else what has the focus."
    )


class WaitFor(Action):
    """Waits for an element."""

    do: Literal["wait_for"] = Field(description="Wait until the element is in `state`.")
    selector: Selector = Field(description="Of the element.")
    state: Literal["visible", "hidden", "attached", "detached"] = Field(
        default="visible", description="What to wait for."
    )


class ExpectText(Action):
    """The page, or an element of it, must come to show a text."""

    do: Literal["expect_text"] = Field(description="A text must be shown.")
    text: str = Field(min_length=1, max_length=4096, description="What must be in it.")
    selector: Selector = Field(default="body", description="In which element.")


class ExpectSelector(Action):
    """An element must become visible."""

    do: Literal["expect_selector"] = Field(description="The element must be visible.")
    selector: Selector = Field(description="Of the element.")


class ExpectUrl(Action):
    """The page's address must come to hold a text."""

    do: Literal["expect_url"] = Field(description="The address must hold `text`.")
    text: str = Field(min_length=1, max_length=4096, description="What must be in it.")


class ExpectTitle(Action):
    """The page's title must come to hold a text."""

    do: Literal["expect_title"] = Field(description="The title must hold `text`.")
    text: str = Field(min_length=1, max_length=4096, description="What must be in it.")


def _kind(action: Any) -> str | None:
    do = action.get("do") if isinstance(action, Mapping) else getattr(action, "do", None)
    return f"<{do}>" if isinstance(do, str) else None


# In angle brackets, which no key of a configuration is: the tags are no part of a field's path.
AnyAction = Annotated[
    Annotated[Open, Tag("<open>")]
    | Annotated[Click, Tag("<click>")]
    | Annotated[Fill, Tag("<fill>")]
    | Annotated[Press, Tag("<press>")]
    | Annotated[WaitFor, Tag("<wait_for>")]
    | Annotated[ExpectText, Tag("<expect_text>")]
    | Annotated[ExpectSelector, Tag("<expect_selector>")]
    | Annotated[ExpectUrl, Tag("<expect_url>")]
    | Annotated[ExpectTitle, Tag("<expect_title>")],
    Discriminator(
        _kind,
        custom_error_type="action",
        custom_error_message="needs `do`: open, click, fill, press, wait_for, expect_text, "
        "expect_selector, expect_url or expect_title",
    ),
]

#: Keys of actions that may hold ${NAME}.
_TEMPLATES = ("url", "selector", "value", "key", "text")


class BrowserStep(StepConfig):
    """Uses a page in a browser. Canaries with such a step go to the queue `browser`."""

    action: Literal["browser"] = Field(description="Use a page in a browser.")
    actions: tuple[AnyAction, ...] = Field(
        min_length=1, max_length=MOST_ACTIONS, description="In order; the first failure ends them."
    )
    verify_tls: bool = Field(default=True, description="Refuse certificates that prove nothing.")
    max_bytes: int = Field(
        default=32 * MEBIBYTE,
        ge=64 * 1024,
        le=256 * MEBIBYTE,
        description="What the page and all it loads may move; more is a failure.",
    )

    @field_validator("actions")
    @classmethod
    def _opens(cls, value: tuple[AnyAction, ...]) -> tuple[AnyAction, ...]:
        if value[0].do != "open":
            raise ValueError("must begin with open: there is no page before it")
        for number, action in enumerate(value):
            if isinstance(action, Open):
                try:
                    _check_url(action.url)
                except ValueError as exc:
                    raise ValueError(f"number {number + 1}: the url {exc}") from None
        return value

    def templates(self) -> Iterable[tuple[str, Any]]:
        for number, action in enumerate(self.actions):
            for key in _TEMPLATES:
                value = getattr(action, key, None)
                if value is not None:
                    yield f"actions.{number}.{key}", value

    def opens(self) -> Iterable[str]:
        return (action.url for action in self.actions if isinstance(action, Open))

    def filled(self, flow: Flow) -> list[Any]:
        """The actions with the flow's values. Raises StepFault and UnsetVariable."""
        return [_filled(action, flow) for action in self.actions]


def _check_url(url: str) -> None:
    head, tail = urls.cut_origin(url)
    variables.names(url)
    if "${" in head:
        head = "https://0.invalid"
    urls.normalize(head + tail.replace("${", "").replace("}", "").replace("|", ""))


def _filled(action: Any, flow: Flow) -> Any:
    changed: dict[str, str] = {}
    for key in _TEMPLATES:
        value = getattr(action, key, None)
        if value is not None and key != "url":
            changed[key] = variables.substitute(value, flow.values)
    if isinstance(action, Open):
        head, tail = urls.cut_origin(action.url)
        url = variables.substitute(head, flow.values)
        url += variables.substitute(tail, flow.values, quoted=True)
        tainted = variables.names(action.url) & flow.tainted
        try:
            # The fragment is the page's own: it is kept, and never sent.
            base, mark, fragment = url.partition("#")
            changed["url"] = urls.normalize(base) + mark + fragment
        except ValueError as exc:
            blame = Reason.PROTOCOL_ERROR if tainted else Reason.PROBER_CONFIG
            raise StepFault(blame, f"the url with its variables {exc}") from None
        led = variables.names(head) & flow.tainted
        if led and urls.parts(urls.normalize(base)) not in flow.origins:
            raise StepFault(
                Reason.FORBIDDEN_ADDRESS,
                "an earlier answer leads to a host that the canary does not name",
            )
    return action.model_copy(update=changed)
