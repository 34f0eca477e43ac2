"""The attributes of the bundled world."""

from kstore_jax.world.schema import load_schema

ATTRIBUTES = load_schema().names
