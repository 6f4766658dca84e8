"""What an answer must be: comparisons, JSONPath (RFC 9535) and JSON Schema, shared by all monitors.

All of it is pure, bounded in time and memory whatever the target sends, and never backtracks.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Comparison(BaseModel):
    """What one value must be; every key that is given must hold.

    Written in a configuration as an object with operators (`{"<": 10, "not": 3}`), or as a plain
    JSON value, which means `equal`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, in one line, or None."""
        raise NotImplementedError


class JsonExpectation(BaseModel):
    """Assertions on a JSON document: JSONPath to Comparison, and a JSON Schema.

    The keys in a configuration are `json_path` and `json_schema`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def fault(self, document: Any) -> str | None:
        """What is wrong with a document, in one line, or None."""
        raise NotImplementedError


def parse_json(body: bytes | str) -> Any:
    """A JSON document of bounded depth. Raises ValueError with one line."""
    raise NotImplementedError


def find(path: str, document: Any) -> list[Any]:
    """The values that a JSONPath selects; the path has been validated. Bounded in number."""
    raise NotImplementedError


def compiled_path(path: str) -> Any:
    """Check a JSONPath. Raises ValueError with one line."""
    raise NotImplementedError


Headers = Mapping[str, tuple[str, ...]]
