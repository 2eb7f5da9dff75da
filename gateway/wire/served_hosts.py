"""The hosts that `server.hosts` lists.

A host that an attacker chooses reaches links, redirects and caches of applications that believe it (host header
injection). Applications with a list of their own, such as Django's ALLOWED_HOSTS, answer 400 to any other host.
"""

from collections.abc import Iterable

from gateway.wire.hosts import canonical_host

WILDCARD = "*."


class ServedHosts:
    """A set of canonical hosts. `*.example.com` holds every name below example.com, and not example.com itself, as in
    nginx, Envoy and the Gateway API of Kubernetes."""

    __slots__ = ("_names", "_suffixes")

    def __init__(self, hosts: Iterable[str]) -> None:
        hosts = tuple(hosts)
        self._names = frozenset(canonical_host(host.encode("ascii")) for host in hosts if not host.startswith(WILDCARD))
        self._suffixes = tuple(host[1:].lower().encode("ascii") for host in hosts if host.startswith(WILDCARD))

    def __contains__(self, host: bytes) -> bool:
        return host in self._names or host.endswith(self._suffixes)

    def covers(self, host: str) -> bool:
        """Whether every host that an entry of `server.hosts` stands for is in the set."""
        if host.startswith(WILDCARD):
            return host[1:].lower().encode("ascii").endswith(self._suffixes)
        return canonical_host(host.encode("ascii")) in self
