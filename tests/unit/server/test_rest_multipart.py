import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsops.errors import InvalidInput
from dsops_controller.server.rest.multipart import parse


def encoded(parts: dict[str, bytes]) -> tuple[str, bytes]:
    request = httpx.Request("POST", "https://h/", files={name: (name, data) for name, data in parts.items()})
    return request.headers["content-type"], request.read()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_parts_arrive_as_they_were_sent(bundle: bytes, role: bytes) -> None:
    parts = {"bundle": bundle, "role": role}
    assert parse(*encoded(parts)) == parts


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ('multipart/form-data; boundary="\x00"', b""),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx'),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b", b"--b\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b", b"--b" * 1000),
    ],
)
def test_other_forms_are_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(content_type, body)


def test_a_part_that_comes_twice_is_refused() -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\nx\r\n'
    with pytest.raises(InvalidInput, match="twice"):
        parse("multipart/form-data; boundary=b", part + part + b"--b--")
