"""Messages of a conversation, in the shape of the OpenAI chat format.

The parts mirror that format field by field, so a dict that a user has at hand is
accepted as it is, and `Message.to_openai` only leaves out what is ours. Messages are
immutable, and text is kept exactly as given.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias
from uuid import UUID

from pydantic import ConfigDict, Field
from pydantic_core import PydanticUndefined

from rigging._ids import new_id
from rigging._model import Model
from rigging.error import InvalidMessageError

__all__ = [
    "AudioData",
    "AudioPart",
    "FunctionCall",
    "ImagePart",
    "ImageURL",
    "Message",
    "MessageLike",
    "Part",
    "Role",
    "TextPart",
    "ToolCall",
]

#: Who speaks.
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

# First bytes -> media type, for images given as bytes.
_IMAGE_SIGNATURES: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8"), "image/gif"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "image/webp"),
)
_SHOWN: Final = 48  # characters of encoded data in a repr

_ABSENT: Final[Any] = PydanticUndefined


class _MessageModel(Model):
    model_config = ConfigDict(frozen=True)

    error_class: ClassVar[type[InvalidMessageError]] = InvalidMessageError


class TextPart(_MessageModel):
    """Text among other parts."""

    type: Literal["text"] = "text"
    text: str


class ImageURL(_MessageModel):
    """Where an image is: a web address, or a data URL that holds it."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [("url", _shortened(self.url)), ("detail", self.detail)]


class ImagePart(_MessageModel):
    """An image, by address or by its bytes.

    Example:
        >>> ImagePart.from_url("https://example.org/cat.png", detail="low").image_url.detail
        'low'
    """

    type: Literal["image_url"] = "image_url"
    image_url: ImageURL

    @classmethod
    def from_url(cls, url: str, *, detail: Literal["auto", "low", "high"] = "auto") -> ImagePart:
        """Refer to an image on the web."""
        return cls(image_url=ImageURL(url=url, detail=detail))

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        media_type: str | None = None,
        detail: Literal["auto", "low", "high"] = "auto",
    ) -> ImagePart:
        """Carry an image's bytes, as a data URL.

        Args:
            data: The encoded image: PNG, JPEG, GIF, WebP or what the model takes.
            media_type: Such as ``image/png``; read from the first bytes if None.
            detail: How closely the model is to look, where it can choose.

        Raises:
            InvalidMessageError: If ``media_type`` is None and the bytes do not tell.
        """
        kind = media_type or _image_type(data)
        if kind is None:
            raise InvalidMessageError(
                "these bytes are no PNG, JPEG, GIF or WebP image: give media_type='image/…'"
            )
        encoded = base64.b64encode(data).decode("ascii")
        return cls.from_url(f"data:{kind};base64,{encoded}", detail=detail)

    @classmethod
    def from_file(
        cls, path: str | Path, *, detail: Literal["auto", "low", "high"] = "auto"
    ) -> ImagePart:
        """Carry the image in a file; its type is read from its bytes, else from its name.

        Raises:
            OSError: If the file cannot be read.
            InvalidMessageError: If neither bytes nor name tell the image's type.
        """
        data = Path(path).read_bytes()
        media_type = _image_type(data) or mimetypes.guess_type(str(path))[0]
        return cls.from_bytes(data, media_type=media_type, detail=detail)


class AudioData(_MessageModel):
    """Sound, encoded as base64, with what was said in it where that is known."""

    data: str
    format: str = "wav"
    transcript: str | None = None

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [
            ("data", _shortened(self.data)),
            ("format", self.format),
            ("transcript", self.transcript),
        ]


class AudioPart(_MessageModel):
    """A piece of sound.

    Example:
        >>> part = AudioPart.from_bytes(b"RIFF", format="wav", transcript="hello")
        >>> part.bytes, part.input_audio.transcript
        (b'RIFF', 'hello')
    """

    type: Literal["input_audio"] = "input_audio"
    input_audio: AudioData

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        format: str = "wav",  # noqa: A002 (the name in OpenAI's format)
        transcript: str | None = None,
    ) -> AudioPart:
        """Carry encoded sound (``format`` names the container, such as wav or mp3)."""
        encoded = base64.b64encode(data).decode("ascii")
        return cls(input_audio=AudioData(data=encoded, format=format, transcript=transcript))

    @property
    def bytes(self) -> bytes:
        """The encoded sound."""
        return base64.b64decode(self.input_audio.data)


#: What the content of a message may be made of.
Part: TypeAlias = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class FunctionCall(_MessageModel):
    """The function that a model wants called; ``arguments`` is JSON as the model wrote it."""

    name: str
    arguments: str


class ToolCall(_MessageModel):
    """One call that a model asks for; the answer is a message of role ``tool``."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_MessageModel):
    """One message of a conversation.

    Attributes:
        role: Who speaks: ``system``, ``user``, ``assistant`` or ``tool``.
        content: Text exactly as given, or a tuple of parts.
        tool_calls: What an assistant wants called; empty for all others.
        tool_call_id: The call that a ``tool`` message answers.
        metadata: The caller's own notes; never sent.
        uuid: Names this message.

    Raises:
        InvalidMessageError: If the role does not exist, or a part has no valid shape.

    Example:
        >>> Message("user", "  Hi ").to_openai()
        {'role': 'user', 'content': '  Hi '}

    Source:
        OpenAI API reference, "Create chat completion", ``messages``.
    """

    role: Role
    # Strict: bytes are no text.
    content: Annotated[str, Field(strict=True)] | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    uuid: UUID = Field(default_factory=new_id)

    def __init__(
        self,
        # A default that pydantic refuses: a missing role is our error, not a TypeError.
        role: Role = _ABSENT,
        content: str | Sequence[str | TextPart | ImagePart | AudioPart | Mapping[str, Any]] = "",
        **fields: Any,
    ) -> None:
        if role is not _ABSENT:
            fields["role"] = role
        fields["content"] = _parts(content)
        self._fill(fields)

    def __hash__(self) -> int:
        return hash(self.uuid)

    @property
    def text(self) -> str:
        """The text of the message: the content itself, or its text parts joined."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content if isinstance(part, TextPart))

    @classmethod
    def fit(cls, value: MessageLike, *, role: Role = "user") -> Message:
        """Make one message of a str, a dict in OpenAI's shape, or a message.

        Args:
            value: A message is returned as it is.
            role: The role of a str.

        Raises:
            InvalidMessageError: If ``value`` is none of these, or no valid message.
        """
        if isinstance(value, str):
            return cls(role, value)
        if isinstance(value, Message):
            return value
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            # OpenAI's own answers say None of whatever a message does not have.
            return cls(**{key: item for key, item in value.items() if item is not None})
        raise InvalidMessageError(
            f"a message is a str, a dict such as {{'role': 'user', 'content': '…'}} or a "
            f"rigging.Message, got {type(value).__name__}"
        )

    @classmethod
    def fit_as_list(
        cls, value: MessageLike | Sequence[MessageLike], *, role: Role = "user"
    ) -> list[Message]:
        """Make a list of messages of one that `fit` takes, or of a sequence of these."""
        if isinstance(value, (str, bytes, Message, Mapping)) or not isinstance(value, Sequence):
            return [cls.fit(value, role=role)]
        return [cls.fit(item, role=role) for item in value]

    def to_openai(self) -> dict[str, Any]:
        """Return a new dict in OpenAI's chat format; the message stays as it is.

        What that format has no place for (``uuid``, ``metadata``, transcripts) is left out.
        """
        content: str | list[dict[str, Any]] = (
            self.content
            if isinstance(self.content, str)
            else [_part_to_openai(part) for part in self.content]
        )
        message: dict[str, Any] = {"role": self.role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


#: What `Message.fit` makes a message of.
MessageLike: TypeAlias = str | Message | Mapping[str, Any]


def _parts(content: Any) -> Any:
    """Let a part be plain text, and no content be empty text, as OpenAI's format does."""
    if isinstance(content, str):  # first, and cheap: nearly all content is text
        return content
    if content is None:
        return ""
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return tuple(TextPart(text=part) if isinstance(part, str) else part for part in content)
    return content


def _image_type(data: bytes) -> str | None:
    return next((kind for magic, kind in _IMAGE_SIGNATURES if magic.match(data)), None)


def _part_to_openai(part: TextPart | ImagePart | AudioPart) -> dict[str, Any]:
    if isinstance(part, AudioPart):
        return part.model_dump(exclude={"input_audio": {"transcript"}})
    return part.model_dump()


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
