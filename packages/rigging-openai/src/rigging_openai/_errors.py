"""Failures of a request, as errors of ours.

An answer that says no is for `_refusals`. Here is what happens where none came:

| what happened                                | ours                    | retry |
|----------------------------------------------|-------------------------|-------|
| a time limit of the generator's              | ProviderTimeoutError    | yes   |
| no such host, refused, reset, cut short,     | ProviderConnectionError | yes   |
| something that is not HTTP                   |                         |       |
| TLS fails, such as for the certificate       | ProviderConnectionError | no    |
| a proxy that lets nobody through             | ProviderConnectionError | no    |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import aiohttp

from rigging.error import (
    GenerationError,
    ProviderConnectionError,
    ProviderTimeoutError,
)
from rigging_openai._endpoint import PROVIDER

if TYPE_CHECKING:
    from rigging.redaction import Redactor

__all__ = ["clean", "to_rigging_error"]

_SERVER_ERROR: Final = 500


def to_rigging_error(error: Exception, *, model: str, redactor: Redactor) -> GenerationError:
    """Return the error of ours for what the HTTP client raised; both are without keys."""
    clean(error, redactor)
    text = redactor.text(str(error)) or type(error).__name__
    if isinstance(error, TimeoutError):
        return ProviderTimeoutError(text, provider=PROVIDER, model=model)
    return ProviderConnectionError(
        text, provider=PROVIDER, model=model, retryable=False if _is_final(error) else None
    )


def clean(error: BaseException, redactor: Redactor) -> None:
    """Take the keys out of an error and what stands behind it: a traceback shows them all."""
    link: BaseException | None = error
    while link is not None:
        redactor.exception(link)
        link = link.__cause__ or link.__context__


def _is_final(error: Exception) -> bool:
    """Return whether it is about who is at the other end, and not about the connection."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return bool(error.status < _SERVER_ERROR)
    return isinstance(error, aiohttp.ClientSSLError)
