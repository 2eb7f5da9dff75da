"""Creating the first administrator on the machine, and never through the network."""

import dataclasses
from pathlib import Path

import pytest

from gateway.accounts.administration import how_to_make_one
from gateway.accounts.emails import email_address
from gateway.accounts.passwords import chosen_password
from gateway.errors import Refusal, StorageUnavailable
from gateway.policy.loader import load_configuration
from gateway.storage.database import Database
from tests.accounts.application import application, problem
from tests.accounts.harness import ORIGIN, PASSWORD, Harness, make_harness, make_settings
from tests.support.databases import Clock

COMMAND = "gateway users create EMAIL --role admin"


async def test_the_command_is_printed_while_no_administrator_exists(harness: Harness) -> None:
    await harness.register()
    assert await how_to_make_one(harness.administration) == COMMAND
    await harness.administration.create("root@example.com", PASSWORD, ["admin"])
    assert await how_to_make_one(harness.administration) is None


async def test_a_role_that_implies_administration_is_enough(database: Database, clock: Clock) -> None:
    harness = make_harness(
        database, clock, make_settings(roles={"chief of staff": ("boss",), "boss": ()}, admin_role="boss")
    )
    assert await how_to_make_one(harness.administration) == "gateway users create EMAIL --role boss"
    await harness.administration.create("chief@example.com", PASSWORD, ["chief of staff"])
    assert await how_to_make_one(harness.administration) is None
    harness.close()


async def test_administrators_of_another_issuer_are_enough(harness: Harness, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    external = "{issuer: 'https://idp.example.com', audience: api, name: idp, roles_claim: roles, role_map: {%s: %s}}"
    for mapped, expected in [("admin", None), ("user", f"{COMMAND} --config {file}")]:
        file.write_text("tokens: {external: [%s]}" % (external % ("staff", mapped)))
        harness.administration.renew(load_configuration(file, {}).settings)
        assert await how_to_make_one(harness.administration) == expected


async def test_nothing_is_printed_while_the_database_is_down(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> bool:
        raise StorageUnavailable("database", "away")

    monkeypatch.setattr(harness.administration, "has_admin", fail)
    assert await how_to_make_one(harness.administration) is None


async def test_it_is_printed_at_startup(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with application(tmp_path, "sqlite://"):
        pass
    lines = [line for line in capfd.readouterr().err.splitlines() if "accounts:" in line]
    assert len(lines) == 1
    assert f"run on this machine: {COMMAND} --config {tmp_path / 'gateway.yaml'}" in lines[0]


async def test_registration_makes_no_administrator_for_any_body(tmp_path: Path) -> None:
    body = {"email": "eve@example.com", "password": PASSWORD}
    async with application(tmp_path, "sqlite://") as client:
        for more in ({"roles": ["admin"]}, {"role": "admin"}, {"is_admin": True}, {"admin": 1}):
            assert problem(await client.post("/auth/register", json=body | more)) == (422, "invalid_fields")
        tokens = (await client.post("/auth/register", json=body)).json()
        signed_in = {"Authorization": f"Bearer {tokens['access_token']}"}
        assert problem(await client.get("/auth/users", headers=signed_in)) == (403, "forbidden")


async def test_registration_is_closed_where_its_roles_have_come_to_imply_administration(harness: Harness) -> None:
    """A configuration file with such roles is refused, but a reload can change implications in a running gateway."""
    harness.accounts.renew(dataclasses.replace(make_settings(), roles={"user": ("admin",), "admin": ()}))
    with pytest.raises(Refusal, match="registration_closed"):
        await harness.accounts.register(
            email_address("eve@example.com"), chosen_password(PASSWORD, min_length=8), ORIGIN
        )
    harness.accounts.renew(make_settings())
    assert await harness.register()
