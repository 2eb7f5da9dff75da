"""The stores of a running gateway, opened and tied together: the database, Redis where there is one, the directory."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from gateway.identity.directory import Directory
from gateway.identity.principals import PrincipalFactory
from gateway.identity.records import ChangeFeed
from gateway.policy.decide import RoleHierarchy
from gateway.settings.model import Settings
from gateway.storage.database import Database
from gateway.storage.redis import RedisCache, RedisFeed, RedisLink
from gateway.storage.schema import prepare
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users


@dataclass(frozen=True, slots=True)
class Stores:
    """What remembers. `redis` is None where one process needs none."""

    database: Database
    redis: RedisLink | None
    users: Users
    sessions: Sessions
    directory: Directory
    feed: ChangeFeed
