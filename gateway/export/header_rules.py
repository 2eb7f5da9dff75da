"""What callers may not set, in every spelling that an upstream could fold to it (CVE-2025-64484), for Envoy.

Envoy has names in lower case; what is left of the folding is `-`, `_` and `.` standing for each other.
"""

import re
from collections.abc import Iterable
from itertools import product
from typing import Final

from gateway.export.messages import Message, extension, fitting, overwriting
from gateway.wire.fields import SPECIAL_NAMES

_JOINT: Final = "[-_.]"
# From a peer that is no trusted proxy. `x-envoy-` steers Envoy itself (CVE-2023-27487), `x-gateway-` is ours below.
_FORWARDING: Final = (
    "forwarded",
    f"x{_JOINT}(?:forwarded|original|envoy|gateway){_JOINT}.*",
    f"x{_JOINT}real{_JOINT}ip",
    f"x{_JOINT}rewrite{_JOINT}url",
)

CHUNKED: Final = "x-gateway-chunked"
"""Set on a request whose body has no announced length: Envoy hides Transfer-Encoding from its routes."""


def spellings(name: str) -> str:
    """An expression for all names that fold to this one."""
    return _JOINT.join(re.escape(part) for part in re.split(_JOINT, name.lower()))


def misspellings(name: str) -> list[str]:
    """The names that fold to this one and are not it."""
    parts = name.split("-")
    joined = (list(zip(parts, (*joints, ""), strict=True)) for joints in product("-_.", repeat=len(parts) - 1))
    return [text for each in joined if (text := "".join(part + joint for part, joint in each)) != name]


def early_mutations(own_names: Iterable[str]) -> Message:
    """What is done to the fields of every request before anything else looks at them."""
    special = [re.escape(text) for name in sorted(SPECIAL_NAMES) for text in misspellings(name.decode("ascii"))]
    removed = [fitting("|".join(names)) for names in (tuple(map(spellings, own_names)), _FORWARDING, special)]
    mutations = [
        *({"remove_on_match": {"key_matcher": names}} for names in removed),
        {"append": overwriting("x-forwarded-for", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")},
        {"append": overwriting(CHUNKED, "%REQ(TRANSFER-ENCODING)%")},
    ]
    path = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": extension(path, {"mutations": mutations}),
    }
