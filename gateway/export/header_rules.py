"""Fields that callers may not set, in every spelling that an upstream could fold to them (CVE-2025-64484), for Envoy.

Envoy has names in lower case. The rest of the folding is that all but letters and digits are one character.
"""

import re
from collections.abc import Iterable
from itertools import repeat
from typing import Final

from gateway.export.messages import Message, extension, fitting, overwriting
from gateway.wire.fields import FORWARDING_NAMES, FORWARDING_PREFIXES, METHOD_OVERRIDES, NEVER_SENT_ON, SPECIAL_NAMES

_JOINT: Final = "[^a-z0-9]"
_OTHER_JOINT: Final = "[^a-z0-9-]"
# `x-envoy-` steers Envoy itself (CVE-2023-27487), `x-gateway-` is ours below.
_PREFIXES: Final = (*(prefix.decode("ascii") for prefix in FORWARDING_PREFIXES), "x-envoy-", "x-gateway-")

CHUNKED: Final = "x-gateway-chunked"
"""Set on a request whose body has no announced length: Envoy hides Transfer-Encoding from its routes."""

METHOD_OVERRIDE_NAMES: Final = sorted(name.decode("ascii") for name in METHOD_OVERRIDES)
"""Taken out of the requests to an upstream without `method_override`."""


def spellings(name: str) -> str:
    """An expression for all names that fold to this one."""
    return _joined(name.lower(), repeat(_JOINT))


def misspellings(name: str) -> list[str]:
    """Expressions for the names that fold to this one and are not it: one for each hyphen that is another character."""
    joints = len(re.findall(_JOINT, name))
    return [_joined(name, [_OTHER_JOINT if each == odd else _JOINT for each in range(joints)]) for odd in range(joints)]


def early_mutations(own_names: Iterable[str]) -> Message:
    """Changes to the fields of every request before anything else looks at them."""
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
