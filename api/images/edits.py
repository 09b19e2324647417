"""`POST /v1/images/edits`: a multipart form with an image, a prompt and an optional mask."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.types import Receive, Scope

from api.endpoint import PreparedRequest, RequestMeta
from api.errors import MAX_QUOTED_CHARS, InvalidImageFileError, MissingParameterError
from api.http.multipart import Form, Upload, read_form
from api.http.parsing import ParsedRequest, read_members
from api.images.endpoint import prepare_images
from api.ports.images import Edit
from api.ports.tenancy import Scope as KeyScope
from api.registry import ImageModel, Registry
from api.schema.image_formats import is_known_image
from api.schema.images import ImageEditRequest
from api.services import Services
from api.settings import Limits

_FILES = {"image": "image", "image[]": "image", "mask": "mask"}
"""Form field → parameter. OpenAI's SDKs use either of the first two names."""


@dataclass(frozen=True, slots=True)
class ParsedEdit(ParsedRequest[ImageEditRequest]):
    """A valid request for an edit, with its files."""

    edit: Edit = field(kw_only=True)


class EditDialect:
    """A `Dialect` for images generated from an image."""

    endpoint = "images/edits"
    key_scope: KeyScope = "images"

    def __init__(self, services: Services) -> None:
        """Serve with the limits and policy of `services`."""
        self._services = services

    async def read_body(self, scope: Scope, receive: Receive) -> Form:
        """Read a multipart form."""
        return await read_form(scope, receive, self._services.limits)

    def parse(self, body: Form) -> ParsedEdit:
        """Validate the files, then each field by itself."""
        files = sort_files(body, self._services.limits)
        policy = self._services.policy.parameters
        parsed = read_members(dict(body.fields), ImageEditRequest, policy)
        edit = to_edit(files, parsed.request)
        return ParsedEdit(parsed.request, parsed.without_effect, edit=edit)

    def resolve(self, registry: Registry, request: ImageEditRequest) -> ImageModel:
        """Find the image model."""
        return registry.get_diffusion(request.model)

    def prepare(self, parsed: ParsedEdit, model: ImageModel, meta: RequestMeta) -> PreparedRequest:
        """Check and translate the request."""
        return prepare_images(parsed, model, meta, self._services, parsed.edit)


def sort_files(form: Form, limits: Limits) -> dict[str, bytes]:
    """Map parameters to the image files of a form.

    Raises:
        InvalidImageFileError: a file is unknown, repeated, too large or not an image.
    """
    files: dict[str, bytes] = {}
    for upload in form.files:
        param = _FILES.get(upload.field)
        if param is None:
            name = upload.field[:MAX_QUOTED_CHARS]
            raise InvalidImageFileError.value(name, "this endpoint does not take this file")
        if param in files:
            raise InvalidImageFileError.value(param, "only one file is allowed")
        files[param] = _check(upload, param, limits)
    return files


def _check(upload: Upload, param: str, limits: Limits) -> bytes:
    if len(upload.data) > limits.max_input_image_bytes:
        raise InvalidImageFileError.value(
            param, f"it is larger than {limits.max_input_image_bytes} bytes"
        )
    if not is_known_image(upload.data):
        raise InvalidImageFileError.value(param, "it is not a PNG, JPEG or WebP file")
    return upload.data


def to_edit(files: Mapping[str, bytes], request: ImageEditRequest) -> Edit:
    """Translate the files and the strength of an edit.

    Raises:
        MissingParameterError: the image is missing.
    """
    if "image" not in files:
        raise MissingParameterError("Missing required parameter: 'image'.", param="image")
    return Edit(files["image"], files.get("mask"), request.strength)
