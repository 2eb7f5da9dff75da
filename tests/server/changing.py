"""Give a running gateway a new configuration."""

import copy
import signal
from typing import Any

import yaml

from tests.support.processes import Configuration, Gateway
from tests.support.waiting import eventually


def configuration_of(gateway: Gateway) -> Configuration:
    """The current contents of its file."""
    read: Any = yaml.safe_load(gateway.config.read_text(encoding="utf-8"))
    return dict(read)


def reload(gateway: Gateway, configuration: Configuration | str | None = None, *, times: int = 1) -> str:
    """Change the file and send SIGHUP; returns the gateway's log lines. `times` is the number of processes that log."""
    if configuration is not None:
        text = configuration if isinstance(configuration, str) else yaml.safe_dump(configuration, sort_keys=False)
        gateway.config.write_text(text, encoding="utf-8")
    before = len(gateway.log())
    gateway.signal(signal.SIGHUP)

    def logged() -> str:
        text = gateway.log()[before:]
        done = text.count("the new configuration is in force") >= times or "the old configuration stays" in text
        return text if done and text.endswith("\n") else ""

    eventually(logged, timeout=20)
    return gateway.log()[before:]


def with_route(configuration: Configuration, **route: Any) -> Configuration:
    """A copy with one more route."""
    changed = copy.deepcopy(configuration)
    changed["routes"].append({"auth": "none", "upstream": "web", **route})
    return changed
