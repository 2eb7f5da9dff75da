"""Redis URLs: meaning, errors, and hidden passwords."""

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from gateway.errors import CannotStart
from gateway.storage.redis.url import RedisAddress, close_client, parse_redis_address


@pytest.mark.parametrize(
    ("url", "nodes", "service", "options"),
    [
        ("redis://localhost", (("localhost", 6379),), "", {}),
        ("redis://10.0.0.1:7000/0", (("10.0.0.1", 7000),), "", {}),
        ("redis://[::1]:7000/", (("::1", 7000),), "", {}),
        ("redis://host:6379/15", (("host", 6379),), "", {"db": 15}),
        ("redis://:p%40ss@host/2", (("host", 6379),), "", {"db": 2, "password": "p@ss"}),
        ("redis://app:a:b/@host", (("host", 6379),), "", {"username": "app", "password": "a:b/"}),
        ("rediss://app@host", (("host", 6379),), "", {"ssl": True, "username": "app"}),
        ("rediss://host?ssl_ca_certs=/ca.pem", (("host", 6379),), "", {"ssl": True, "ssl_ca_certs": "/ca.pem"}),
        ("redis+sentinel://a/m?sentinel_password=p@s", (("a", 26379),), "m", {}),
        ("redis://host?db=3", (("host", 6379),), "", {"db": 3}),
        ("redis://host/3?db=3", (("host", 6379),), "", {"db": 3}),
        ("redis+sentinel://a/m?db=4", (("a", 26379),), "m", {"db": 4}),
        ("redis+cluster://a?db=0", (("a", 6379),), "", {}),
        ("redis://host?ssl=false", (("host", 6379),), "", {}),
        ("redis+sentinel://a,b:1,[::2]:3/mymaster", (("a", 26379), ("b", 1), ("::2", 3)), "mymaster", {}),
        (
            "redis+sentinel://:x@a/mymaster/3?ssl=true",
            (("a", 26379),),
            "mymaster",
            {"password": "x", "db": 3, "ssl": True},
        ),
        ("redis+cluster://a:1,b:2", (("a", 1), ("b", 2)), "", {}),
        ("redis+cluster://a/0", (("a", 6379),), "", {}),
    ],
)
def test_an_address_identifies_the_server(url: str, nodes: object, service: str, options: object) -> None:
    address = parse_redis_address(url)
    assert (address.nodes, address.service, address.options) == (nodes, service, options)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("http://localhost", "must begin with redis://"),
        ("unix:///run/redis.sock", "must begin with redis://"),
        ("redis://", "must name a host"),
        ("redis://:6379", "must name a host"),
        ("redis://:secret-word@", "must name a host"),
        ("redis://host:port", "an invalid host or port"),
        ("redis://host:99999", "an invalid host or port"),
        ("redis://[::1", "an invalid host or port"),
        ("redis://a,b", "names several hosts"),
        ("redis://host/db", "number of a database"),
        ("redis://host/-1", "number of a database"),
        ("redis://host/0/1", "number of a database"),
        ("redis+sentinel://host", "must name the service"),
        ("redis+sentinel://host/", "must name the service"),
        ("redis+sentinel://host/mymaster/x", "number of a database"),
        ("redis+cluster://host/1", "database 0 only"),
        ("redis://host?socket_timeout=60", "unknown option socket_timeout"),
        ("redis://host?retry=1&db=2", "unknown option retry"),
        ("redis://host?db=two", "db must be the number of a database"),
        ("redis://host/1?db=2", "names two databases"),
        ("redis+cluster://host?db=1", "database 0 only"),
        ("redis://u:secret-word?secret-word@host", "not percent-encoded"),
        ("rediss://host?ssl_cert_reqs=none", "unknown option ssl_cert_reqs"),
        ("redis+cluster://host?ssl=yes", "ssl must be true or false"),
    ],
)
def test_an_address_that_means_nothing_is_refused(url: str, why: str) -> None:
    with pytest.raises(CannotStart, match=why) as refused:
        parse_redis_address(url)
    assert str(refused.value).startswith("storage.redis: the address ")
    assert "secret-word" not in str(refused.value)


def test_an_address_is_shown_without_its_secrets() -> None:
    address = parse_redis_address("redis+sentinel://app:p%40ss@a:1/m?sentinel_password=hidden&sentinel_username=s")
    assert address.sentinel_options == {"username": "s", "password": "hidden"}
    assert str(address) == "redis+sentinel://a:1/m"
    assert "p@ss" not in repr(address) and "hidden" not in repr(address)
    assert address.hide("error: p@ss, hidden") == "error: ********, ********"
    assert parse_redis_address("redis://host").hide("nothing to hide") == "nothing to hide"


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://app:x@127.0.0.1:1/3", Redis),
        ("rediss://127.0.0.1:1", Redis),
        ("redis+sentinel://:x@127.0.0.1:1,127.0.0.1:2/mymaster?ssl=true&sentinel_password=y", Redis),
        ("redis+cluster://:x@127.0.0.1:1?ssl=true", RedisCluster),
    ],
)
async def test_a_client_is_made_without_connecting(url: str, kind: type[object]) -> None:
    client = parse_redis_address(url).client()
    assert isinstance(client, kind)
    await close_client(client)


async def test_sentinels_do_not_receive_the_password_of_the_servers() -> None:
    client = parse_redis_address("redis+sentinel://app:x@a,b/m/2?ssl=true&sentinel_username=s").client()
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert pool.connection_kwargs["password"] == "x"
    assert isinstance(pool, SentinelConnectionPool)
    asking = pool.sentinel_manager.sentinel_kwargs
    assert {name: asking.get(name) for name in ("username", "password", "db", "ssl")} == {
        "username": "s",
        "password": None,
        "db": None,
        "ssl": True,
    }
    # A hanging server leaves time for the next one.
    assert asking["socket_timeout"] == 1.0
    await close_client(client)


def test_addresses_can_be_compared() -> None:
    assert parse_redis_address("redis://a") == RedisAddress("redis", (("a", 6379),))
