"""Images in messages: `data:` URLs of three formats, and URLs to be fetched.

A URL that the service would have to fetch is refused unless there is a fetcher: a client that
chooses the URL could make the service call machines that only the service can reach.
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
        InvalidImageError: it is not such a URL, too large, or not a PNG, JPEG or WebP file.
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
    """The place of an image in a conversation that must be fetched first."""

    message: int
    part: int
    url: str


def is_remote(image: ImageUrl) -> bool:
    """Whether an image is elsewhere and not in its URL."""
    return image.url[:5].lower() != "data:"


def find_remote_images(request: ChatRequest) -> tuple[RemoteImage, ...]:
    """Find the images that must be fetched."""
    return tuple(
        RemoteImage(number, place, part.url)
        for number, message in enumerate(request.messages)
        if isinstance(message.content, tuple)
        for place, part in enumerate(message.content)
        if not isinstance(part, str) and is_remote(part)
    )


async def insert_images(
    conversation: Conversation,
    remote: Collection[RemoteImage],
    fetcher: ImageFetcher,
    limits: Limits,
) -> Conversation:
    """Fetch images and put them into their places.

    Raises:
        InvalidImageError: an image may not be fetched, cannot be, or is no image.
    """
    messages = list(conversation.messages)
    for image in remote:
        data = await fetcher.fetch(image.url, limits.max_input_image_bytes)
        _check_format(data, f"messages[{image.message}].content")
        content = list(messages[image.message].content or ())
        content[image.part] = ImageInput(data)
        messages[image.message] = replace(messages[image.message], content=tuple(content))
    return replace(conversation, messages=tuple(messages))
