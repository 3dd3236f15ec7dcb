"""The three roles of the database: who may change its shape, who sees tenants' rows, who moves money.

They are groups without a log-in, and every connection takes one with SET ROLE; the log-in that WAYPOST_DATABASE_URL
names only has to be a member of them. None is a superuser or bypasses row-level security, whoever logs in.
"""

from __future__ import annotations

from enum import Enum

import psycopg


class Role(Enum):
    OWNER = "waypost_owner"  # owns the tables and migrates them
    APP = "waypost_app"  # one organisation's rows, or the system's view of all; no money moves
    SETTLE = "waypost_settle"  # the books, of every organisation


class RolesMissing(Exception):
    """The log-in may not make or take the roles. The message holds what an administrator runs once."""


def ensure_roles(connection: psycopg.Connection) -> None:
    """Make the roles that are missing, take part in them, and let the owner make tables in this database.

    Raises RolesMissing when this log-in has no right to."""
    try:
        with connection.transaction():
            for role in Role:
                _ensure_role(connection, role)
            _let_owner_create(connection)
    except psycopg.errors.InsufficientPrivilege:
        user = connection.execute("SELECT quote_ident(current_user)").fetchone()
        raise RolesMissing(_advice(user[0] if user else "CURRENT_USER")) from None


def _ensure_role(connection: psycopg.Connection, role: Role) -> None:
    known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role.value,)).fetchone()
    if known is None:
        try:
            with connection.transaction():
                connection.execute(f"CREATE ROLE {role.value} NOLOGIN NOSUPERUSER NOBYPASSRLS")
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass  # another database of this server is being migrated at the same moment
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL ROLE {role.value}")
    except psycopg.errors.InsufficientPrivilege:
        # Whoever may create a role may also join it, yet is not a member by that alone.
        connection.execute(f"GRANT {role.value} TO CURRENT_USER")
    connection.execute("RESET ROLE")


def _let_owner_create(connection: psycopg.Connection) -> None:
    may_create = f"SELECT has_schema_privilege('{Role.OWNER.value}', 'public', 'CREATE')"
    if connection.execute(may_create).fetchone() == (True,):
        return
    # Whoever may not grant it is warned only, and nothing is granted.
    connection.execute(f"GRANT USAGE, CREATE ON SCHEMA public TO {Role.OWNER.value}")
    if connection.execute(may_create).fetchone() != (True,):
        raise psycopg.errors.InsufficientPrivilege


def _advice(user: str) -> str:
    names = ", ".join(role.value for role in Role)
    lines = [f"CREATE ROLE {role.value} NOLOGIN;" for role in Role]
    lines += [f"GRANT {names} TO {user};", f"GRANT USAGE, CREATE ON SCHEMA public TO {Role.OWNER.value};"]
    return f"The database user may not make or take the roles {names}. Let an administrator run: {' '.join(lines)}"
