"""Multipart forms that are damaged where their structure is: no 5xx, and no file left open."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import strategies as st

from tests.fuzz.application import BEARER, Application
from tests.helpers.edit_forms import BOUNDARY, JPEG, MEDIA_TYPE, PNG, URL
from tests.helpers.fakes import PAINTER
from tests.helpers.fuzzing import Fuzzer

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

FIELDS = {
    "model": PAINTER,
    "prompt": "a dot",
    "n": "2",
    "size": "64x64",
    "seed": "7",
    "strength": "0.5",
    "stream": "true",
    "partial_images": "1",
    "response_format": "url",
    "loras": '[{"name": "ink"}]',
}
DATA = (
    st.sampled_from([PNG, JPEG, b"", b"\0", b"\r\n", f"--{BOUNDARY}".encode(), b"a" * 70_000])
    | st.sampled_from([value.encode() for value in FIELDS.values()])
    | st.binary(max_size=20)
)
NAMES = st.sampled_from([*FIELDS, "image", "image[]", "mask", "", "é", 'a"b', "a\\", "x" * 300])
FILENAMES = st.none() | st.sampled_from(["a.png", "", "../../etc/passwd", "é", 'a"b', "a\0b"])
HEAD_LINES = st.sampled_from(
    [
        "Content-Type: image/png",
        "Content-Type: text/plain; charset=utf-16",
        "Content-Type: text/plain; charset=no-such",
        "Content-Type: multipart/mixed; boundary=b0undary",
        "Content-Transfer-Encoding: base64",
        "Content-Length: 99999999",
        "Content-Disposition: form-data; name=twice",
        "no colon",
        ": no name",
        "X-Long: " + "x" * 9000,
        "",
    ]
)


@dataclass(frozen=True)
class Part:
    """One part of a form."""

    name: str
    data: bytes
    filename: str | None
    lines: tuple[str, ...]

    def encode(self) -> bytes:
        disposition = f'Content-Disposition: form-data; name="{self.name}"'
        if self.filename is not None:
            disposition += f'; filename="{self.filename}"'
        head = "\r\n".join([disposition, *self.lines])
        return head.encode() + b"\r\n\r\n" + self.data + b"\r\n"


GOOD_FIELDS = st.sets(st.sampled_from(sorted(FIELDS.keys() - {"model", "prompt"})), max_size=3).map(
    lambda names: [Part(name, FIELDS[name].encode(), None, ()) for name in sorted(names)]
)
ANY_PARTS = st.lists(
    st.builds(Part, NAMES, DATA, FILENAMES, st.lists(HEAD_LINES, max_size=2).map(tuple)), max_size=3
)
GOOD = [
    Part("model", PAINTER.encode(), None, ()),
    Part("prompt", b"a dot", None, ()),
    Part("image", PNG, "a.png", ("Content-Type: image/png",)),
]


def to_form(parts: list[Part], separator: bytes, end: bytes) -> bytes:
    return b"".join(separator + part.encode() for part in parts) + end


SEPARATORS = st.sampled_from(
    [f"--{BOUNDARY}{rest}".encode() for rest in ("\r\n", "\r\n", "\r\n", "\n", " \r\n", "")]
)
ENDS = st.sampled_from([f"--{BOUNDARY}--\r\n".encode()] * 4 + [b"", b"--", b"\0", b"\r\n" * 9])
FORMS = st.builds(
    to_form,
    st.one_of(
        st.builds(lambda more: [*GOOD, *more], GOOD_FIELDS),
        st.builds(lambda more: [*GOOD, *more], ANY_PARTS),
        st.permutations(GOOD).map(lambda parts: parts[:2]),
        ANY_PARTS,
        st.tuples(st.sampled_from([GOOD[0], GOOD[2]]), st.integers(15, 80)).map(
            lambda times: [times[0]] * times[1]
        ),
    ),
    SEPARATORS,
    ENDS,
)
DAMAGED = st.builds(
    lambda form, at, length, junk: form[:at] + junk + form[at + length :],
    FORMS,
    st.integers(0, 700),
    st.integers(0, 40),
    st.binary(max_size=6),
)
MEDIA_TYPES = st.sampled_from(
    [MEDIA_TYPE] * 6
    + [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="b0undary"',
        "multipart/form-data; boundary=" + "x" * 500,
        "multipart/form-data; boundary=b0undary; charset=utf-16",
        "multipart/form-data; boundary=\xe9",
        "multipart/mixed; boundary=b0undary",
    ]
)


@pytest.fixture
def application() -> Iterator[Application]:
    application = Application()
    application.send("GET", "/health")  # opens the files of the event loop
    yield application
    application.close()


def test_form_of_any_structure_gets_an_answer_or_an_error(
    application: Application, fuzzer: Fuzzer
) -> None:
    open_files = len(os.listdir("/proc/self/fd"))

    def send(form: tuple[bytes, str, list[int]]) -> None:
        body, media_type, cuts = form
        places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
        chunks = [body[begin:end] for begin, end in pairwise(places)]
        headers = {"content-type": media_type, **BEARER}
        application.send("POST", URL, chunks, headers)
        assert len(os.listdir("/proc/self/fd")) <= open_files

    forms = st.tuples(
        FORMS | FORMS | DAMAGED, MEDIA_TYPES, st.lists(st.integers(0, 400), max_size=4)
    )
    fuzzer.run(forms, send, count=600)

    assert application.statuses[200] > 9
    assert application.statuses[400] > 9
