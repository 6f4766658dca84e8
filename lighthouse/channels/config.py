"""What every channel shares. Nothing of it prints: a webhook's URL is a password."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from yarl import URL

from lighthouse.configs import Secret
from lighthouse.urls import checked, is_numeric


def _post_url(url: str) -> str:
    split, host = checked(url)
    if is_numeric(host) and ":" not in host and host != split.hostname:
        # Some read 127.1 or 0x7f000001 as addresses, others as names.
        raise ValueError("has a numeric host that is no usual IP address")
    try:
        URL(url)  # the form in which it will be sent
    except ValueError:
        raise ValueError("is no valid URL") from None
    return url


#: An address that messages are posted to. Whether its host may be connected to is decided for
#: each connection, not here: names resolve differently tomorrow.
PostUrl = Annotated[Secret, AfterValidator(_post_url), Field(repr=False)]


class ChannelConfig(BaseModel):
    """Configuration of one channel: immutable, complete, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", str_max_length=4096, hide_input_in_errors=True
    )

    #: Hosts of the service itself, where an address of the channel's own leads there.
    home: ClassVar[frozenset[str]] = frozenset()

    @property
    def address(self) -> str | None:
        """The URL that the channel's owner named; None where the operator names the server."""
        return None

    @property
    def foreign_host(self) -> str | None:
        """The host that messages go to, when it is not the service's."""
        host = checked(self.address)[1] if self.address is not None else None
        return None if host in self.home else host
