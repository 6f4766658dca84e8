"""OAuth 2.0 client credentials: tokens fetched through the guarded transport, kept while they
last.

One per event loop; checks that need the same token at the same time wait for one request.
"""

import asyncio
import base64
import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote_plus, urlencode

from lighthouse import urls
from lighthouse.model import Reason
from lighthouse.probes.http_auth import OAuth2
from lighthouse.probes.judging.assertions import parse_json
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, Transport, TransportError

#: Tokens that are kept; the least used goes first.
_MOST_TOKENS = 4096

#: Bytes of an answer of the token's server, and characters of a token.
_MOST_ANSWER_BYTES = 65_536
_MOST_TOKEN_CHARS = 16_384

#: Seconds that a token is kept when its server does not say, and at the most.
_DEFAULT_LIFE_S = 300.0
_LONGEST_LIFE_S = 86_400.0

#: A token is used no more in the last part of its life: the target's clock may be ahead.
_SPARED_S = 30.0
_SPARED_SHARE = 0.1

_USABLE = re.compile(r"[\x21-\x7e]+")
_CODE = re.compile(r"[\w.-]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, and whether an earlier check has fetched it."""

    text: str = field(repr=False)
    kept: bool = False


@dataclass(slots=True)
class _Place:
    """One client's token at one server."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    text: str | None = None
    until: float = 0.0  #: by the monotonic clock


class Tokens:
    """The tokens of all checks on one event loop. Ask `Equipment.own` for it."""

    def __init__(self, equipment: Equipment) -> None:
        self._transport: Transport = equipment.transport
        self._places: OrderedDict[object, _Place] = OrderedDict()

    async def close(self) -> None:
        """Forget all tokens."""
        self._places.clear()

    async def get(
        self, oauth2: OAuth2, request: HttpRequest, timeout_s: float
    ) -> Token | TransportError:
        """A token for a request, over within `timeout_s`; the request's way is taken, too."""
        place = self._place((oauth2, request.special, request.verify_tls))
        deadline = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await place.lock.acquire()
        except TimeoutError:
            return _fault(f"no token within {timeout_s:g} s")
        try:
            if place.text is not None and time.monotonic() < place.until:
                return Token(text=place.text, kept=True)
            place.text = None
            left_s = max(deadline - time.monotonic(), 0.001)
            found = await self._transport.exchange(token_request(oauth2, request), left_s)
            read = read_token(found)
            if isinstance(read, TransportError):
                return read
            place.text, life_s = read
            place.until = time.monotonic() + life_s
            return Token(text=place.text)
        finally:
            place.lock.release()

    def forget(self, oauth2: OAuth2, request: HttpRequest) -> None:
        """The target has refused the token before its time."""
        self._place((oauth2, request.special, request.verify_tls)).text = None

    def _place(self, key: object) -> _Place:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place()
            if len(self._places) > _MOST_TOKENS:
                self._places.popitem(last=False)
        else:
            self._places.move_to_end(key)
        return place


def token_request(oauth2: OAuth2, request: HttpRequest) -> HttpRequest:
    """What is asked for a token; a client certificate is shown to the target's origin alone."""
    origin = urls.parts(oauth2.token_url)
    form = {"grant_type": "client_credentials"}
    if oauth2.scope is not None:
        form["scope"] = oauth2.scope
    if oauth2.audience is not None:
        form["audience"] = oauth2.audience
    headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Accept", "application/json"),
    ]
    if oauth2.send_as == "basic":
        pair = f"{quote_plus(oauth2.client_id)}:{quote_plus(oauth2.client_secret)}"
        headers.append(("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}"))
    else:
        form |= {"client_id": oauth2.client_id, "client_secret": oauth2.client_secret}
    special = request.special
    if special is not None:
        special = replace(special, http_version=None)
        if origin != urls.parts(request.url):
            special = replace(special, certificate=None, key=None)
    return HttpRequest(
        url=oauth2.token_url,
        host=origin[1],
        port=origin[2],
        numeric=urls.is_numeric(origin[1]),
        method="POST",
        headers=tuple(headers),
        body=urlencode(form).encode(),
        verify_tls=request.verify_tls,
        max_body_bytes=_MOST_ANSWER_BYTES,
        keep_body_bytes=_MOST_ANSWER_BYTES,
        special=special,
    )


def read_token(found: HttpResponse | TransportError) -> tuple[str, float] | TransportError:
    """The token and the seconds that it may be kept, or why there is none."""
    if isinstance(found, TransportError):
        own = found.reason.value.startswith("prober_")
        blamed = own or found.reason is Reason.FORBIDDEN_ADDRESS
        return _fault(f"no token: {found.message}", found.reason if blamed else Reason.TOKEN)
    answer: Any = None
    try:
        answer = parse_json(found.body)
    except ValueError:
        if found.status == 200:
            return _fault("the token's server answered without JSON")
    if not isinstance(answer, Mapping):
        answer = {}
    if found.status != 200:
        code = answer.get("error")
        told = f", {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""
        return _fault(f"no token: its server answered {found.status}{told}")
    text = answer.get("access_token")
    if not isinstance(text, str) or not _USABLE.fullmatch(text) or len(text) > _MOST_TOKEN_CHARS:
        return _fault("the token's server answered without a usable access_token")
    return text, _life_s(answer.get("expires_in"))


def _life_s(expires_in: object) -> float:
    try:
        told_s = _DEFAULT_LIFE_S if expires_in is None else float(str(expires_in)[:40])
    except ValueError:
        told_s = _DEFAULT_LIFE_S
    if not math.isfinite(told_s):
        told_s = _DEFAULT_LIFE_S
    life_s = min(max(told_s, 0.0), _LONGEST_LIFE_S)
    return max(0.0, life_s - max(_SPARED_S, _SPARED_SHARE * life_s))


def _fault(message: str, reason: Reason = Reason.TOKEN) -> TransportError:
    return TransportError(reason=reason, message=message)
