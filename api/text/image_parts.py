"""Images in messages: `data:` URLs of three formats, and URLs to be fetched.

Without a fetcher, URLs to be fetched are refused: a client could make the service call machines
that only the service can reach.
"""

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from api.errors import InvalidImageError, InvalidRequestError
from api.ports.images import ImageFetcher
from api.ports.text import Conversation, ImageInput
from api.schema.chat import ChatRequest
from api.schema.chat_messages import ImageUrl
from api.schema.image_formats import is_known_image
from api.settings import Limits

_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)


def read_image(url: str, param: str, limits: Limits) -> bytes:
    """Decode the image file in a `data:` URL.

    Raises:
        InvalidImageError: it is not a `data:` URL, too large, or not a PNG, JPEG or WebP file.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidImageError(
            "An image must be given as a 'data:image/png;base64,…' URL; PNG, JPEG and WebP are "
            "supported.",
            param=param,
        )
    if (len(url) - head.end()) * 3 // 4 > limits.max_input_image_bytes:
        raise InvalidImageError(
            f"An image is larger than the limit of {limits.max_input_image_bytes} bytes.",
            param=param,
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImageError("An image is not valid base64.", param=param) from None
    _check_format(data, param)
    return data


def _check_format(data: bytes, param: str) -> None:
    if not is_known_image(data):
        raise InvalidImageError("An image is not a PNG, JPEG or WebP file.", param=param)


def check_image_count(request: ChatRequest, limits: Limits) -> None:
    """Check the number of images of all messages.

    Raises:
        InvalidRequestError: there are too many.
    """
    images = sum(
        not isinstance(part, str)
        for message in request.messages
        if isinstance(message.content, tuple)
        for part in message.content
    )
    if images > limits.max_input_images:
        raise InvalidRequestError.value(
            "messages", f"{images} images are more than the limit of {limits.max_input_images}"
        )


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image that must be fetched, and its position in the conversation."""

    message: int
    """Index of the message."""
    part: int
    """Index of the content part in the message."""
    url: str


def is_remote(image: ImageUrl) -> bool:
    """Return whether an image must be fetched because its URL does not contain it."""
    return image.url[:5].lower() != "data:"


def find_remote_images(request: ChatRequest) -> tuple[RemoteImage, ...]:
    """Find the images that must be fetched."""
    return tuple(
        RemoteImage(message_index, part_index, part.url)
        for message_index, message in enumerate(request.messages)
        if isinstance(message.content, tuple)
        for part_index, part in enumerate(message.content)
        if not isinstance(part, str) and is_remote(part)
    )


async def insert_images(
    conversation: Conversation,
    remote: Collection[RemoteImage],
    fetcher: ImageFetcher,
    limits: Limits,
) -> Conversation:
    """Fetch images and return the conversation with them.

    Raises:
        InvalidImageError: an image is not allowed, cannot be fetched, or is not an image.
    """
    messages = list(conversation.messages)
    for image in remote:
        data = await fetcher.fetch(image.url, limits.max_input_image_bytes)
        _check_format(data, f"messages[{image.message}].content")
        content = list(messages[image.message].content or ())
        content[image.part] = ImageInput(data)
        messages[image.message] = replace(messages[image.message], content=tuple(content))
    return replace(conversation, messages=tuple(messages))
