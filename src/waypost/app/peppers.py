"""The peppers from the operator's side: a new one made, an old one retired and brought back, and who needs which."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import msgspec

from waypost.app.secrets import (
    SecretsError,
    add_pepper,
    bring_pepper_back,
    open_peppers,
    pepper_path,
    retired_peppers,
    set_pepper_aside,
)
from waypost.storage.api_key_digests import OfPepper, count_by_pepper, end_moved, newest_pepper
from waypost.storage.pool import Pool
from waypost.tenancy.pepper import IN_FORCE_MAX


class PepperState(Enum):
    NEWEST = "newest"
    BEFORE = "before"  # in force, for keys that have not been used since
    RETIRED = "retired"  # set aside, and can come back
    MISSING = "missing"  # keys were made under it, and it is not in this directory


class ListedPepper(msgspec.Struct, frozen=True):
    """A version, and the valid keys known under it: `only_here` of them under no other that is in force."""

    version: int
    state: PepperState
    keys: int
    only_here: int


async def list_peppers(pool: Pool, directory: Path) -> list[ListedPepper]:
    """Those that are here, and those that the database knows of, the newest first. Raises SecretsError, as all here."""
    in_force = _in_force(directory)
    retired = retired_peppers(directory)
    counted = {each.version: each for each in await count_by_pepper(pool, in_force)}
    found = []
    for version in sorted({*in_force, *retired, *counted}, reverse=True):
        keys = counted.get(version, OfPepper(version, 0, 0, 0))
        if version in in_force:
            state = PepperState.NEWEST if version == in_force[0] else PepperState.BEFORE
        else:
            state = PepperState.RETIRED if version in retired else PepperState.MISSING
        found.append(ListedPepper(version, state, keys.keys, keys.only_here))
    return found


async def rotate_pepper(pool: Pool, directory: Path) -> Path:
    """Make the next version, under which new keys are made, and to which others move when they are used; where it
    stands."""
    in_force = _in_force(directory)
    if len(in_force) >= IN_FORCE_MAX:
        raise SecretsError(
            f"peppers {in_force[1]} and {in_force[0]} are in force: retire {in_force[1]} first "
            f"(`waypost pepper retire {in_force[1]}`)"
        )
    version = 1 + max(*in_force, *retired_peppers(directory), await newest_pepper(pool))
    add_pepper(directory, version)
    return pepper_path(directory, version)


async def retire_pepper(pool: Pool, directory: Path, version: int, *, is_sure: bool) -> tuple[Path, int]:
    """Take one of two out of force; where it stands now, and how many keys are refused for want of it. Who is not sure
    is told what it would break, and nothing changes."""
    in_force = _in_force(directory)
    if version not in in_force:
        raise SecretsError(f"pepper {version} is not in force: see `waypost pepper list`")
    others = [each for each in in_force if each != version]
    if not others:
        raise SecretsError(f"pepper {version} is the only one in force: make another first (`waypost pepper rotate`)")
    losing = next((each for each in await count_by_pepper(pool, others) if each.version == version), None)
    lost = 0 if losing is None else losing.only_here
    if losing is not None and lost and not is_sure:
        raise SecretsError(
            f"{lost} valid keys, of {losing.organisations} organisations, are known under pepper {version} alone: "
            f"they were not used under pepper {others[0]}, and would be refused with 401. Wait until they are "
            f"used, give them new texts (`waypost key rotate`), or say --yes; `waypost pepper restore {version}` "
            "takes it back"
        )
    aside = set_pepper_aside(directory, version)
    await end_moved(pool, version, others)
    return aside, lost


async def restore_pepper(pool: Pool, directory: Path, version: int) -> int:
    """Have a retired one in force again; how many keys are known under it alone, and are taken again."""
    in_force = _in_force(directory)
    if version not in retired_peppers(directory):
        raise SecretsError(f"there is no retired pepper {version} in {directory}: see `waypost pepper list`")
    if len(in_force) >= IN_FORCE_MAX:
        raise SecretsError(
            f"peppers {in_force[1]} and {in_force[0]} are in force, and two may be: retire one of them first"
        )
    bring_pepper_back(directory, version)
    counted = await count_by_pepper(pool, [*in_force, version])
    return sum(each.only_here for each in counted if each.version == version)


def _in_force(directory: Path) -> list[int]:
    """Versions, the newest first."""
    return [each.version for each in open_peppers(directory).all]
