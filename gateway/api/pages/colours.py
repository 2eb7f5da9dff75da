"""Colours of the pages in both schemes, with the contrasts that WCAG 2.2 asks for."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")

DEFAULT_ACCENT: Final = "#1f5eb8"
TEXT: Final = 4.5  # WCAG 2.2, 1.4.3: the contrast of text.
_STEPS: Final = 50


class Colour(NamedTuple):
    """An sRGB colour."""

    red: int
    green: int
    blue: int

    @staticmethod
    def parse(text: str) -> "Colour":
        """Read a colour of the form `#0a5fd7`."""
        return Colour(*bytes.fromhex(text.removeprefix("#")))

    def __str__(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"

    @property
    def luminance(self) -> float:
        """The relative luminance of WCAG 2.2, 0 for black and 1 for white."""
        red, green, blue = map(_linear, self)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(self, other: "Colour") -> float:
        """The contrast ratio of WCAG 2.2, from 1 to 21."""
        darker, lighter = sorted((self.luminance, other.luminance))
        return (lighter + 0.05) / (darker + 0.05)

    def mixed(self, other: "Colour", share: float) -> "Colour":
        """This colour with a share of another one, from 0 to 1."""
        return Colour(*(round(own + (its - own) * share) for own, its in zip(self, other, strict=True)))


_WHITE: Final = Colour(255, 255, 255)
_BLACK: Final = Colour(0, 0, 0)

_PALETTES: Final[Mapping[Scheme, Mapping[str, str]]] = {
    "light": {
        "ground": "#f5f6f8",
        "card": "#ffffff",
        "field": "#ffffff",
        "text": "#16191d",
        "soft": "#565e69",
        "line": "#e2e5ea",
        "edge": "#868e9a",
        "bad": "#b3261e",
        "bad-soft": "#fdf2f1",
        "good": "#17693a",
        "good-soft": "#f0f8f3",
        "warn": "#8a5300",
    },
    "dark": {
        "ground": "#101215",
        "card": "#191c20",
        "field": "#121418",
        "text": "#e9ebee",
        "soft": "#a4acb7",
        "line": "#2c3138",
        "edge": "#747d89",
        "bad": "#ff9a91",
        "bad-soft": "#2b1917",
        "good": "#7fd6a2",
        "good-soft": "#14231a",
        "warn": "#f0bd6d",
    },
}


def on(background: Colour) -> Colour:
    """White or black text, by the better contrast. One of them always reaches 4.5."""
    return max(_WHITE, _BLACK, key=background.contrast)


def palette(accent: Colour, scheme: Scheme) -> dict[str, str]:
    """The colours of a scheme by name."""
    colours = dict(_PALETTES[scheme])
    surfaces = [Colour.parse(colours[name]) for name in ("card", "ground")]
    text = on(accent)
    hover = accent.mixed(_WHITE if text == _BLACK else _BLACK, 0.14)
    link = _legible(accent, surfaces, _BLACK if scheme == "light" else _WHITE)
    return colours | {"accent": str(accent), "accent-2": str(hover), "on-accent": str(text), "link": str(link)}


def _legible(colour: Colour, surfaces: Iterable[Colour], towards: Colour) -> Colour:
    """The colour, mixed with black or white until it is legible as text on every surface."""
    surfaces = tuple(surfaces)
    shades = (colour.mixed(towards, step / _STEPS) for step in range(_STEPS))
    return next((each for each in shades if all(each.contrast(one) >= TEXT for one in surfaces)), towards)


def _linear(channel: int) -> float:
    value = channel / 255
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)
