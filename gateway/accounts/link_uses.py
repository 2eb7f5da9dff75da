"""The presentation of links: one answer for every link that cannot be used, and counts of their uses."""

from collections import Counter
from collections.abc import Collection, Iterator

from gateway.accounts.links import Link, LinkKind, LinkStore, link_digest, link_invalid
from gateway.identity.user import UserRecord
from gateway.samples import Sample


class LinkUses:
    """Finds presented links. Showing the page of a link changes nothing: mail scanners open links (CVE-2026-124020)."""

    def __init__(self, links: LinkStore) -> None:
        self.links = links
        self._counts: Counter[tuple[str, str]] = Counter()

    async def shown(self, token: str, kinds: Collection[LinkKind]) -> Link | None:
        """A link of these kinds, for its page."""
        digest = link_digest(token)
        return None if digest is None else await self.links.find(digest, kinds)

    async def find(self, token: str, kinds: Collection[LinkKind]) -> Link:
        """A link that is about to be used. Raises `link_invalid`."""
        link = await self.shown(token, kinds)
        if link is None:
            self._counts[min(kinds), "invalid"] += 1
            raise link_invalid("unknown, used, expired, void or of another kind")
        return link

    def used(self, link: Link, record: UserRecord | None) -> UserRecord:
        """The record after the use of a link. Raises `link_invalid` for None: another attempt was faster, or the link
        became void after it was found."""
        self._counts[link.kind, "invalid" if record is None else "used"] += 1
        if record is None:
            raise link_invalid("used or void since it was found")
        return record

    def samples(self) -> Iterator[Sample]:
        """Uses of links by kind and outcome."""
        for labels, count in self._counts.items():
            yield Sample("gateway_links_used_total", labels, count)
