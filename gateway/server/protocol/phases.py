"""What the next bytes of a caller are.

Plain constants: looking up a member of an Enum costs as much as parsing a header field.
"""

from typing import Final

HEAD: Final = 0
BODY: Final = 1
RESPONDING: Final = 2
DISCARD: Final = 3
LINGER: Final = 4
TUNNEL: Final = 5
