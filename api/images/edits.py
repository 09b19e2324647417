"""`POST /v1/images/edits`: a form with a picture, perhaps a mask, and what to make of it."""

from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from api.errors import InvalidImageFileError, MissingParameterError
from api.http.multipart import Form, Upload, read_form
from api.http.parsing import Read, read_members
from api.images.endpoint import Exchange, ImageFlow
from api.middleware.auth import get_key_for
from api.ports.images import Edit
from api.registry import Models
from api.schema.image_formats import is_known_image
from api.schema.images import ImageEditRequest
from api.services import Services
from api.settings import Limits

_FILES = {"image": "image", "image[]": "image", "mask": "mask"}
"""OpenAI's SDKs write the first two; both are the same."""


class EditImages:
    """The endpoint: read → look up → call → write."""

    def __init__(self, models: Models, rules: Services) -> None:
        """Serve the diffusion models among `models`."""
        self._flow = ImageFlow(models, rules, "images/edits")
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = get_key_for(scope, "images")
        limits = self._rules.limits
        form = await read_form(scope, receive, limits)
        files = sort_files(form, limits)
        read = read_members(dict(form.fields), ImageEditRequest, self._rules.policy.parameters)
        edit = to_edit(files, read)
        await self._flow.answer(Exchange(scope, receive, send), key, read, edit)


def sort_files(form: Form, limits: Limits) -> dict[str, bytes]:
    """The pictures of a form by what they are for.

    Raises:
        InvalidImageFileError: there are too many, one is too large, or is no picture by its beginning.
    """
    files: dict[str, bytes] = {}
    for upload in form.files:
        param = _FILES.get(upload.field)
        if param is None:
            raise _refuse(upload.field[:64], "this endpoint takes no such file")
        if param in files:
            raise _refuse(param, "one file is taken, and there are more")
        files[param] = _check(upload, param, limits)
    return files


def _check(upload: Upload, param: str, limits: Limits) -> bytes:
    if len(upload.data) > limits.max_input_image_bytes:
        raise _refuse(param, f"it is larger than {limits.max_input_image_bytes} bytes")
    if not is_known_image(upload.data):
        raise _refuse(param, "it is not a PNG, JPEG or WebP file")
    return upload.data


def to_edit(files: Mapping[str, bytes], read: Read[ImageEditRequest]) -> Edit:
    """What is to be edited, and how much of it.

    Raises:
        MissingParameterError: there is no picture.
    """
    if "image" not in files:
        raise MissingParameterError("Missing required parameter: 'image'.", param="image")
    return Edit(files["image"], files.get("mask"), read.request.strength)


def _refuse(param: str, reason: str) -> InvalidImageFileError:
    return InvalidImageFileError(f"Invalid value for '{param}': {reason}.", param=param)
