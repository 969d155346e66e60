"""Create the Unsplash dataset's tables, with its own column names, and add the rendition of images."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "images", sa.Column("rendition", sa.Text, comment="URL of the smaller version that was fetched; NULL: of image")
    )
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "unsplash_photos",
        sa.Column("photo_id", sa.Text, primary_key=True),
        sa.Column("photo_url", sa.Text),
        sa.Column("photo_image_url", sa.Text),
        sa.Column("photo_submitted_at", moment),
        sa.Column("photo_featured", sa.Boolean),
        sa.Column("photo_width", sa.Integer),
        sa.Column("photo_height", sa.Integer),
        sa.Column("photo_aspect_ratio", sa.Double),
        sa.Column("photo_description", sa.Text),
        sa.Column("photographer_username", sa.Text),
        sa.Column("photographer_first_name", sa.Text),
        sa.Column("photographer_last_name", sa.Text),
        sa.Column("exif_camera_make", sa.Text),
        sa.Column("exif_camera_model", sa.Text),
        sa.Column("exif_iso", sa.Integer),
        sa.Column("exif_aperture_value", sa.Text),
        sa.Column("exif_focal_length", sa.Text),
        sa.Column("exif_exposure_time", sa.Text),
        sa.Column("photo_location_name", sa.Text),
        sa.Column("photo_location_latitude", sa.Double),
        sa.Column("photo_location_longitude", sa.Double),
        sa.Column("photo_location_country", sa.Text),
        sa.Column("photo_location_city", sa.Text),
        sa.Column("stats_views", sa.BigInteger),
        sa.Column("stats_downloads", sa.BigInteger),
        sa.Column("ai_description", sa.Text),
        sa.Column("ai_primary_landmark_name", sa.Text),
        sa.Column("ai_primary_landmark_latitude", sa.Double),
        sa.Column("ai_primary_landmark_longitude", sa.Double),
        sa.Column("ai_primary_landmark_confidence", sa.Text),
        sa.Column("blur_hash", sa.Text),
        comment="Unsplash: the photos, whether or not they are pictures in images.",
    )
    op.create_table(
        "unsplash_keywords",
        sa.Column("photo_id", sa.Text, primary_key=True),
        sa.Column("keyword", sa.Text, primary_key=True),
        sa.Column("ai_service_1_confidence", sa.Double),
        sa.Column("ai_service_2_confidence", sa.Double),
        sa.Column("suggested_by_user", sa.Boolean),
        sa.Column("user_suggestion_source", sa.Text),
        sa.Column("suggested_by_ai_service_3", sa.Boolean),
        sa.Column("confirmed_by_ai_service_3", sa.Boolean),
        comment="Unsplash: what the photos show, as their users and three services say.",
    )
    op.create_table(
        "unsplash_collections",
        sa.Column("photo_id", sa.Text, primary_key=True),
        sa.Column("collection_id", sa.Text, primary_key=True),
        sa.Column("collection_title", sa.Text),
        sa.Column("photo_collected_at", moment),
        sa.Column("collection_type", sa.Text),
        comment="Unsplash: the collections that people put the photos in.",
    )
    op.create_table(
        "unsplash_colors",
        sa.Column("photo_id", sa.Text, primary_key=True),
        sa.Column("hex", sa.Text, primary_key=True),
        sa.Column("red", sa.Integer),
        sa.Column("green", sa.Integer),
        sa.Column("blue", sa.Integer),
        sa.Column("keyword", sa.Text),
        sa.Column("coverage", sa.Double),
        sa.Column("score", sa.Double),
        comment="Unsplash: the main colours of the photos.",
    )
    op.create_table(
        "unsplash_conversions",
        sa.Column("converted_at", moment),
        sa.Column("conversion_type", sa.Text),
        sa.Column("keyword", sa.Text),
        sa.Column("photo_id", sa.Text, nullable=False),
        sa.Column("anonymous_user_id", sa.Text),
        sa.Column("conversion_country", sa.Text),
        sa.Column("device_type", sa.Text),
        sa.Column("search_orientation_filter", sa.Text),
        sa.Column("search_ordering", sa.Text),
        comment="Unsplash: which photo was downloaded after which search.",
    )
    op.create_index("unsplash_keywords_keyword_idx", "unsplash_keywords", ["keyword"])
    op.create_index("unsplash_collections_collection_id_idx", "unsplash_collections", ["collection_id"])
    op.create_index("unsplash_conversions_photo_id_idx", "unsplash_conversions", ["photo_id"])
    op.create_index("unsplash_conversions_keyword_idx", "unsplash_conversions", ["keyword"])


def downgrade() -> None:
    for table in ("photos", "keywords", "collections", "colors", "conversions"):
        op.drop_table(f"unsplash_{table}")
    op.drop_column("images", "rendition")
