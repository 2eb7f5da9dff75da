"""Durations and sizes: values, errors, and parsing as the inverse of formatting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.types import LARGEST, LONGEST, format_duration, format_size, parse_duration, parse_size

DURATIONS = [("250ms", 0.25), ("10s", 10.0), ("15m", 900.0), ("1h", 3600.0), ("14d", 1_209_600.0), ("0s", 0.0)]
SIZES = [("64KiB", 65_536), ("10MiB", 10_485_760), ("1GiB", 1 << 30), ("2TiB", 2 << 40), ("512B", 512), ("0", 0)]
NO_DURATIONS = ["", "10", "s", "1.5s", "-1s", "+1s", "10 s", "10S", "1h30m", "10s\n", "١s", "9" * 5000 + "s", "3651d"]
NO_SIZES = ["", "KiB", "-1", "1.5MiB", "10KB", "10kib", "10 MiB", "64KiB\n", "٣", "9" * 5000, "1025TiB"]


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", NO_DURATIONS)
def test_an_invalid_duration_is_none(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_a_size_is_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", NO_SIZES)
def test_an_invalid_size_is_none(text: str) -> None:
    assert parse_size(text) is None


@given(st.integers(0, round(LONGEST * 1000)))
def test_a_duration_written_and_read_is_the_same(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@given(st.integers(0, LARGEST))
def test_a_size_written_and_read_is_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.sampled_from(["ms", "s", "m", "h", "d"]), st.integers(0, 10**12))
def test_a_duration_is_at_most_ten_years(unit: str, count: int) -> None:
    seconds = parse_duration(f"{count}{unit}")

    assert seconds is None or 0 <= seconds <= LONGEST


@given(st.text())
def test_any_text_is_a_duration_and_a_size_or_neither(text: str) -> None:
    parse_duration(text)
    parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (60.0, "1m"), (90.0, "90s"), (1.5, "1500ms"), (86400.0, "1d")]
)
def test_the_largest_unit_that_fits_is_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1000, "1000B"), (1024, "1KiB"), (1536, "1536B"), (1 << 20, "1MiB")]
)
def test_the_largest_unit_of_a_size_that_fits_is_written(size: int, text: str) -> None:
    assert format_size(size) == text
