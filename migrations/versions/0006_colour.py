"""Add the mean colour of each image, which pages show while the image loads."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("colour", sa.Text, comment="mean of the picture, like #8a7f66; NULL: unknown"))
    op.create_check_constraint("images_colour_check", "images", "colour ~ '^#[0-9a-f]{6}$'")


def downgrade() -> None:
    op.drop_column("images", "colour")
