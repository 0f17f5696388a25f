"""The kit's OpenAI-compatible server, under the names that our tests use."""

from __future__ import annotations

from rigging.testing import OpenAIServer
from rigging.testing import ServerReply as Reply
from rigging.testing import ServerRequest as Request
from rigging.testing._answers import error_body

__all__ = ["OpenAIServer", "Reply", "Request", "error_body"]
