"""Header fields that clients must not set, in every spelling that an upstream could normalise to them (CVE-2025-64484).

Envoy uses lower-case names. The expressions treat all characters except letters and digits as equal.
"""

import re
from collections.abc import Iterable
from itertools import repeat
from typing import Final

from gateway.analysis.envoy.messages import Message, extension, fitting, overwriting
from gateway.wire.fields import FORWARDING_NAMES, FORWARDING_PREFIXES, METHOD_OVERRIDES, NEVER_SENT_ON, SPECIAL_NAMES

_JOINT: Final = "[^a-z0-9]"
_OTHER_JOINT: Final = "[^a-z0-9-]"
# `x-envoy-` controls Envoy itself (CVE-2023-27487). This module uses `x-gateway-`.
_PREFIXES: Final = (*(prefix.decode("ascii") for prefix in FORWARDING_PREFIXES), "x-envoy-", "x-gateway-")

CHUNKED: Final = "x-gateway-chunked"
"""Marks requests with a body without Content-Length: Envoy hides Transfer-Encoding from route matching."""

METHOD_OVERRIDE_NAMES: Final = sorted(name.decode("ascii") for name in METHOD_OVERRIDES)
"""Removed from requests to upstreams without `method_override`."""


def spellings(name: str) -> str:
    """An expression for all names that normalise to this one."""
    return _joined(name.lower(), repeat(_JOINT))


def misspellings(name: str) -> list[str]:
    """Expressions for the names that normalise to this one but differ, one per hyphen that is another character."""
    joints = len(re.findall(_JOINT, name))
    return [_joined(name, [_OTHER_JOINT if each == odd else _JOINT for each in range(joints)]) for odd in range(joints)]


def early_mutations(own_names: Iterable[str]) -> Message:
    """Changes to the header fields of every request, before all other processing."""
    special = [each for name in sorted(SPECIAL_NAMES) for each in misspellings(name.decode("ascii"))]
    never = [re.escape(name.decode("ascii")) for name in sorted(NEVER_SENT_ON)]
    forwarding = [spellings(name.decode("ascii")) for name in sorted(FORWARDING_NAMES)]
    forwarding += [f"{spellings(prefix)}.*" for prefix in _PREFIXES]
    removed = [fitting("|".join(names)) for names in (map(spellings, own_names), forwarding, special, never)]
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


def _joined(name: str, joints: Iterable[str]) -> str:
    first, *others = re.split(_JOINT, name)
    return re.escape(first) + "".join(joint + re.escape(part) for joint, part in zip(joints, others, strict=False))
