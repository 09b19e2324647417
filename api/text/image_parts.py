"""Pictures in messages: `data:` URLs of three formats, within limits, before any decoding.

A URL that the service would have to fetch is refused, unless there is a fetcher: whoever may name
one could make the service talk to machines that only it can reach.
"""

import base64
import binascii
import re

from api.errors import InvalidImageError, InvalidRequestError
from api.ports.images import ImageFetcher
from api.schema.chat import ChatRequest
from api.schema.chat_messages import ChatMessage, ImageUrl
from api.schema.image_formats import is_known_image
from api.settings import Limits

_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)


def read_image(url: str, param: str, limits: Limits) -> bytes:
    """The bytes of the file that a `data:` URL holds.

    Raises:
        InvalidImageError: it is no such URL, too large, or not the beginning of a PNG, JPEG or WebP.
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
    if not is_known_image(data):
        raise InvalidImageError("An image is not a PNG, JPEG or WebP file.", param=param)
    return data


def check_image_count(request: ChatRequest, limits: Limits) -> None:
    """Count the pictures of all messages.

    Raises:
        InvalidRequestError: there are too many.
    """
    pictures = sum(
        not isinstance(part, str)
        for message in request.messages
        if isinstance(message.content, tuple)
        for part in message.content
    )
    if pictures > limits.max_input_images:
        raise InvalidRequestError(
            f"Invalid value for 'messages': {pictures} images are more than the limit of "
            f"{limits.max_input_images}.",
            param="messages",
        )


async def fetch_images(request: ChatRequest, fetcher: ImageFetcher, limits: Limits) -> ChatRequest:
    """Replace each URL that must be fetched by one that holds what was there.

    Raises:
        InvalidRequestError: there are too many pictures.
        InvalidImageError: one may not be fetched, or cannot be.
    """
    check_image_count(request, limits)
    messages = [await _fetch_message(message, fetcher, limits) for message in request.messages]
    return request.model_copy(update={"messages": messages})


async def _fetch_message(
    message: ChatMessage, fetcher: ImageFetcher, limits: Limits
) -> ChatMessage:
    if not isinstance(message.content, tuple):
        return message
    content = tuple([await _fetch_part(part, fetcher, limits) for part in message.content])
    return message.model_copy(update={"content": content})


async def _fetch_part(
    part: str | ImageUrl, fetcher: ImageFetcher, limits: Limits
) -> str | ImageUrl:
    if isinstance(part, str) or part.url[:5].lower() == "data:":
        return part
    data = await fetcher.fetch(part.url, limits.max_input_image_bytes)
    # Of whatever kind it is: that is looked at where it is read.
    return ImageUrl(f"data:image/png;base64,{base64.b64encode(data).decode()}")
