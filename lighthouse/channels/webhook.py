"""Webhooks by the Standard Webhooks specification: a signed JSON document, no redirects."""

import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Any

from pydantic import Field, field_validator

from lighthouse.channels.config import ChannelConfig, PostUrl
from lighthouse.channels.http import Http, Reply
from lighthouse.channels.templates import Message
from lighthouse.configs import Secret
from lighthouse.model import Answer, to_slot

#: Marks a secret that is written in base64.
SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret itself


class WebhookConfig(ChannelConfig):
    """Where the documents go, and what signs them."""

    url: PostUrl = Field(description="Receives a POST with a JSON document for every alert.")
    secret: Secret | None = Field(
        default=None,
        repr=False,
        description="Signs each document: whsec_ and base64, or any text (its bytes are the key).",
    )

    @field_validator("secret")
    @classmethod
    def _usable(cls, secret: str | None) -> str | None:
        if secret is not None and not key(secret):
            raise ValueError("is empty")
        return secret

    @property
    def address(self) -> str:
        return self.url


def key(secret: str) -> bytes:
    """The bytes that sign. Raises ValueError when base64 is promised and not kept."""
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(secret[len(SECRET_PREFIX) :], validate=True)
    except binascii.Error:
        raise ValueError("must hold base64 after whsec_") from None


async def send(http: Http, config: WebhookConfig, message: Message) -> Answer:
    """Post one document and read the receiver's verdict on it."""
    body = json.dumps(document(message), ensure_ascii=False).encode()
    sent_at = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message.key,
        "webhook-timestamp": str(sent_at),
    }
    if config.secret is not None:
        headers["webhook-signature"] = sign(config.secret, message.key, sent_at, body)
    reply = await http.post(config.url, body, headers)
    return judge(reply) if isinstance(reply, Reply) else reply


def document(message: Message) -> dict[str, Any]:
    """The document; the same for every try. What the event's context names never hides a field."""
    return {
        "type": message.kind,
        "timestamp": message.at.isoformat(),
        "data": {
            **message.context,
            "event_id": str(message.event_id),
            "incident_id": None if message.incident_id is None else str(message.incident_id),
            "subscription": {
                "id": str(message.subscription_id),
                "name": message.subscription_name,
            },
            "severity": message.severity.value,
            "title": message.title,
            "message": message.message,
            "slot": to_slot(message.at),
        },
    }


def sign(secret: str, message_id: str, sent_at: int, body: bytes) -> str:
    """The webhook-signature header: HMAC-SHA256 over id, timestamp and body."""
    signed = f"{message_id}.{sent_at}.".encode() + body
    digest = hmac.digest(key(secret), signed, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def judge(reply: Reply) -> Answer:
    """What the receiver's answer means for the delivery.

    Only two answers end it: 410 says that the endpoint is gone for good, and a redirect asks for
    what the specification forbids. Anything else may be a deployment under way (a router's 404, a
    secret's 401), and a lost alert costs more than a day of ever rarer tries.
    """
    detail = f"HTTP {reply.status}"
    if 200 <= reply.status < 300:
        return Answer(ok=True, detail=detail)
    if 300 <= reply.status < 400:
        return Answer(ok=False, detail=f"{detail}: redirects are not followed", permanent=True)
    if reply.status == 410:
        return Answer(ok=False, detail=detail, permanent=True, gone=True)
    return Answer(ok=False, detail=detail, retry_after_s=reply.retry_after_s())
