"""Units of audio, images, durations and characters, and the price version on the execution."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_RARE = ("audio_input_tokens", "image_input_tokens", "audio_output_tokens", "images", "duration_ms", "characters")


def upgrade() -> None:
    """NULL is zero, so that no row is written again and none grows."""
    for table in ("settlement", "execution"):
        for name in _RARE:
            op.execute(f"ALTER TABLE {table} ADD COLUMN {name} bigint CHECK ({name} >= 0)")
    op.execute("ALTER TABLE execution ADD COLUMN price_version bigint")


def downgrade() -> None:
    """Forget them."""
    op.execute("ALTER TABLE execution DROP COLUMN price_version")
    for table in ("settlement", "execution"):
        for name in _RARE:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")
