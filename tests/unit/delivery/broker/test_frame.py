"""A frame gives back what was put in, and nothing that is no frame is believed."""

from __future__ import annotations

import contextlib
import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from llmctx.delivery.broker.frame import BYTES, LARGEST, ROWS, FrameError, decode, encode, message_id, split

HEAD = struct.Struct(">BHI")


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=ROWS))
def test_a_frame_is_read_as_it_was_made(payloads: list[bytes]) -> None:
    """The same rows, in the same order; and the same bytes each time that they are sent."""
    assert decode(encode(payloads)) == payloads
    assert encode(payloads) == encode(payloads)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_frame_raise_frame_error(data: bytes) -> None:
    """Whatever comes, nothing but `FrameError` is raised."""
    with pytest.raises(FrameError):
        decode(data)
    with pytest.raises(FrameError):
        decode(HEAD.pack(1, 1, 100) + data)


@given(st.data())
def test_a_frame_that_was_damaged_is_not_read_beyond_its_limits(data: st.DataObject) -> None:
    """A byte that was hit, or a tail that is missing, makes `FrameError`, or rows of the same size in all."""
    whole = encode([b"a" * 100, b"b" * 50])
    at = data.draw(st.integers(0, len(whole) - 1))
    hit = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for broken in (hit, whole[:at], whole + b"x"):
        with contextlib.suppress(FrameError):
            assert sum(map(len, decode(broken))) <= 158


def test_a_small_message_that_would_unpack_to_gigabytes_is_refused() -> None:
    """Neither what the head claims, nor what the compressed part claims of itself, is allocated."""
    bomb = zstandard.ZstdCompressor().compress(bytes(LARGEST + 1))
    for claimed in (10, LARGEST, LARGEST + 1):
        with pytest.raises(FrameError):
            decode(HEAD.pack(1, 1, claimed) + bomb)
    streamed = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(FrameError):
        decode(HEAD.pack(1, 1, 1000) + streamed)


def test_a_frame_of_a_version_to_come_says_so() -> None:
    """It is for a newer shipper, and not damaged."""
    with pytest.raises(FrameError, match="version 2"):
        decode(HEAD.pack(2, 1, 1) + b"x")


def test_what_no_reader_takes_is_not_made() -> None:
    """A frame has rows, and no more than a reader unpacks."""
    for payloads in ([], [bytes(LARGEST)]):
        with pytest.raises(ValueError, match="a frame of"):
            encode(payloads)


@given(st.lists(st.integers(0, 2 * BYTES)))
def test_rows_are_split_into_frames_within_both_limits(sizes: list[int]) -> None:
    """Each row is in one frame; a row that is too large for any is alone."""
    counts = split(sizes)
    assert sum(counts) == len(sizes)
    at = 0
    for count in counts:
        assert 0 < count <= ROWS
        assert count == 1 or sum(sizes[at : at + count]) <= BYTES
        at += count


def test_the_id_of_a_frame_is_of_its_calls() -> None:
    """The same calls in the same order have the same id, others another one."""
    assert message_id([b"a" * 16, b"b" * 16]) == message_id([b"a" * 16, b"b" * 16])
    assert message_id([b"a" * 16, b"b" * 16]) != message_id([b"b" * 16, b"a" * 16])
