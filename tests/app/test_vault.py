"""Which vault the settings name, and what of a cluster's is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.stores.vaults import MIB, valkey
from waypost.app.settings import SettingsError, read_settings
from waypost.app.vault import open_vault, refuse_unfit
from waypost.stores.socket_vault import SocketVault
from waypost.stores.valkey_vault import ValkeyVault
from waypost.stores.vault import VaultUnfit


def told(tmp_path: Path, text: str) -> Path:
    config = tmp_path / "waypost.toml"
    config.write_text(f"[server]\n{text}\n")
    return config


def test_the_vault_is_this_machines_unless_a_server_is_named(tmp_path: Path) -> None:
    alone = read_settings(environment={}, data_dir=tmp_path, config_path=told(tmp_path, f"vault_bytes = {MIB}"))
    assert isinstance(open_vault(alone), SocketVault)
    assert (alone.vault_bytes, alone.vault_share) == (MIB, 50)
    config = told(tmp_path, 'valkey_url = "valkey://waypost:hidden@10.0.0.5:6379"')
    shared = read_settings(environment={}, data_dir=tmp_path, config_path=config)
    assert isinstance(open_vault(shared), ValkeyVault)
    assert "hidden" not in repr(shared)


def test_a_vault_too_small_for_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="vault_bytes"):
        read_settings(environment={}, data_dir=tmp_path, config_path=told(tmp_path, "vault_bytes = 1000"))


async def start_and_ask(tmp_path: Path, settings: dict[str, str]) -> None:
    async with valkey(settings) as url:
        config = told(tmp_path, f'valkey_url = "{url}"')
        given = read_settings(environment={}, data_dir=tmp_path, config_path=config)
        await asyncio.to_thread(refuse_unfit, given)


async def test_a_server_that_writes_to_a_disk_is_refused_at_the_start(tmp_path: Path) -> None:
    await start_and_ask(tmp_path, {"save": "", "appendonly": "no"})
    with pytest.raises(VaultUnfit, match="writes what it holds to a disk"):
        await start_and_ask(tmp_path, {"save": "60 1", "appendonly": "no"})


def test_a_server_that_is_away_may_come_later(tmp_path: Path) -> None:
    config = told(tmp_path, f'valkey_url = "unix://{tmp_path}/nobody.sock"')
    refuse_unfit(read_settings(environment={}, data_dir=tmp_path, config_path=config))
