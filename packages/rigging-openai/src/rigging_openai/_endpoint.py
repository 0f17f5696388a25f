"""Where requests go, and what goes with each of them: the address, the key, headers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from rigging.error import BadRequestError
from rigging.redaction import is_harmless, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["OPENAI", "PROVIDER", "Endpoint", "check_shown", "make_endpoint"]

PROVIDER: Final = "openai"
OPENAI: Final = "https://api.openai.com/v1"

# What is under no known name of a secret, and is one all the same, is not so short; taking
# every "eu" or "prod" out of errors would garble them.
_SHORTEST_UNNAMED: Final = 8  # characters

# Of the connection, or of how the body is written: what is said of these is the client's.
_OWN_HEADERS: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# What would end a header's line, or begin another request.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PARTS: Final = re.compile(r"[\s;,=]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and what every request to it carries beyond what all requests do.

    Attributes:
        base: The address that paths are added to, with neither query nor trailing slash.
        query: Behind the path, encoded; empty if there is none.
        headers: Of every request.
        secrets: What must not be shown of all that.
        has_key: Whether there may be a key among the headers.
    """

    base: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    has_key: bool = False

    def url(self, path: str) -> str:
        """Return the address of one of the endpoint's services."""
        url = f"{self.base}/{path}"
        return f"{url}?{self.query}" if self.query else url


def make_endpoint(
    base: str,
    *,
    model: str,
    api_key: str | None = None,
    organization: str | None = None,
    project: str | None = None,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    is_shown: bool = False,
) -> Endpoint:
    """Put together what requests to an address carry.

    Args:
        base: Such as ``http://127.0.0.1:8000/v1``; what stands in its query is kept.
        model: The model that is asked, for the error.
        api_key: The key; none if None or empty.
        organization: Whose account to bill at OpenAI.
        project: Within the organization.
        headers: Further ones, which win.
        query: Further names and values behind the address.
        is_shown: The address stands where everybody can see it; see `check_shown`.

    Raises:
        BadRequestError: If no request can be built of that. The text shows no value.
    """
    try:
        if is_shown:
            check_shown(base)
        return _made(base, api_key, organization, project, headers or {}, query or {})
    except ValueError as error:
        text = str(error)
    # Not from there, for what it was raised for holds the values.
    raise BadRequestError(text, provider=PROVIDER, model=model)


def _made(
    base: str,
    api_key: str | None,
    organization: str | None,
    project: str | None,
    headers: Mapping[str, str],
    query: Mapping[str, str],
) -> Endpoint:
    parts = _split(_clean("api_base", base))
    if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("api_base is no address: write http://host:port/v1 or https://host/v1")
    if parts.username is not None:
        raise ValueError("api_base holds a user's name, which is no part of an endpoint's address")
    merged: dict[str, str] = {}
    if api_key:
        merged["Authorization"] = f"Bearer {_clean('api_key', api_key)}"
    if organization:
        merged["OpenAI-Organization"] = _clean("organization", organization)
    if project:
        merged["OpenAI-Project"] = _clean("project", project)
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header's name holds what no header's name can hold")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"the header {name} is for the HTTP client to write: leave it out")
        for other in [known for known in merged if known.lower() == name.lower()]:
            del merged[other]
        merged[name] = _clean(f"the header {name}", value)
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *query.items()]
    hidden = [(name, value) for name, value in [*merged.items(), *pairs] if not is_harmless(name)]
    return Endpoint(
        base=urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")),
        query=urlencode(pairs),
        headers=merged,
        secrets=tuple({part for name, value in hidden for part in _secret_parts(name, value)}),
        has_key=any(not is_harmless(name) for name in merged),
    )


def check_shown(api_base: str) -> None:
    """Refuse an address that would show a secret wherever the generator is shown.

    Raises:
        ValueError: If it holds a user's name, or in its query what may be a key. The text
            shows no value.
    """
    # Not by a parser, which refuses some addresses; those are shown as well.
    address, _, query = api_base.partition("#")[0].partition("?")
    if "@" in address.rpartition("://")[2].partition("/")[0]:
        raise ValueError(
            "api_base holds a user's name: it would be shown. Give the header instead: "
            'headers={"Authorization": "Basic …"}'
        )
    for name, value in parse_qsl(query, keep_blank_values=True):
        if not is_harmless(name):
            shown = repr(name) if value else "something"  # a key may stand there alone
            raise ValueError(
                f"api_base holds {shown} in its query: if that is a secret, it would be shown. "
                f"Give the generator's query instead"
            )


def _split(address: str) -> SplitResult | None:
    """Return the parts of an address; None if it has none that could be told apart."""
    try:
        return urlsplit(address)
    except ValueError:
        return None


def _secret_parts(name: str, value: str) -> Iterator[str]:
    """Yield what must not be shown of the value of a header, or of a name in a query."""
    # Endpoints repeat a key without its scheme, and one cookie out of several.
    parts = [value, value.partition(" ")[2]]
    if is_secret(name):
        yield from parts
        parts = _PARTS.split(value)
    yield from (part for part in parts if len(part) >= _SHORTEST_UNNAMED)


def _clean(what: str, text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"{what} holds a line break or another control character")
    return text
