"""A model family of one's own: its pictures' ids are named otherwise, and only attention gets an adapter."""

from gtrturbo.models.families import Family

FAMILY = Family(picture_ids=("image_token_id",), image_only=True, lora_targets=("q_proj", "v_proj"))
