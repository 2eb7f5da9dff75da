"""Names of browsers and systems, from the User-Agent field, for the list of sessions.

Users recognise `Firefox, Linux` and not a User-Agent. Sessions are never decided by these names.
"""

from typing import Final

# The first match counts: most browsers name others too.
_BROWSERS: Final = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Version/", "Safari"),
)
_SYSTEMS: Final = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
_LONGEST: Final = 40  # Characters of a name that is shown as it is.


def browser_name(user_agent: str) -> str:
    """The browser and its system, or the first product of another program (`curl/8.5.0`). Empty without any."""
    if not user_agent.startswith("Mozilla/"):
        return user_agent.partition(" ")[0][:_LONGEST]
    names = (next((name for mark, name in known if mark in user_agent), "") for known in (_BROWSERS, _SYSTEMS))
    return ", ".join(filter(None, names))
