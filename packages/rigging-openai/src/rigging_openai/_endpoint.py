"""Where requests go, and what goes with each of them: the address, the key, headers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from rigging.error import BadRequestError
from rigging.redaction import is_secret
from rigging_openai._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OPENAI", "PROVIDER", "Endpoint", "is_hidden", "make_endpoint"]

PROVIDER: Final = "openai"
OPENAI: Final = "https://api.openai.com/v1"

# Names of headers and of what stands in a query whose values are secrets, beside those that
# are secrets anywhere.
_HIDDEN: Final = frozenset({"cookie", "key", "sig", "signature"})

# What would end a header's line, or begin another request.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and what every request to it carries.

    Attributes:
        base: The address that paths are added to, with neither query nor trailing slash.
        query: Behind the path, encoded; empty if there is none.
        headers: Of every request.
        secrets: What must not be shown of all that.
        has_key: Whether there is a key among the headers.
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

    Raises:
        BadRequestError: If no request can be built of that. The text shows no value.
    """
    try:
        return _made(base, api_key, organization, project, headers or {}, query or {})
    except ValueError as error:
        raise BadRequestError(str(error), provider=PROVIDER, model=model) from None


def _made(
    base: str,
    api_key: str | None,
    organization: str | None,
    project: str | None,
    headers: Mapping[str, str],
    query: Mapping[str, str],
) -> Endpoint:
    parts = urlsplit(_clean("api_base", base))
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("api_base is no address: write http://host:port/v1 or https://host/v1")
    if parts.username is not None:
        raise ValueError(
            "api_base holds a user's name: it would be shown. Give the header instead: "
            'headers={"Authorization": "Basic …"}'
        )
    merged = {
        "Accept-Encoding": "identity",  # answers are small, and unpacking them costs more
        "Content-Type": "application/json",
        "User-Agent": f"rigging-openai/{__version__}",
    }
    if api_key:
        merged["Authorization"] = f"Bearer {_clean('api_key', api_key)}"
    if organization:
        merged["OpenAI-Organization"] = _clean("organization", organization)
    if project:
        merged["OpenAI-Project"] = _clean("project", project)
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError("a header's name holds what no header's name can hold")
        for other in [known for known in merged if known.lower() == name.lower()]:
            del merged[other]
        merged[name] = _clean(f"the header {name}", value)
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *query.items()]
    hidden = [value for name, value in [*merged.items(), *pairs] if is_hidden(name)]
    return Endpoint(
        base=urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", "")),
        query=urlencode(pairs),
        headers=merged,
        # A header's scheme, "Bearer" or "Basic", is no secret.
        secrets=tuple({part for value in hidden for part in (value, value.rpartition(" ")[2])}),
        has_key=any(is_hidden(name) for name in merged),
    )


def is_hidden(name: str) -> bool:
    """Tell whether the value of a header, or of a name in a query, is a secret."""
    return is_secret(name) or name.lower() in _HIDDEN


def _clean(what: str, text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError(f"{what} holds a line break or another control character")
    return text
