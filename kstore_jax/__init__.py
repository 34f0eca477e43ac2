"""How language models store facts, and whether those facts can be asked for.

From Python: `World` makes people and their texts; `load` opens the folder of a run, with its
results and its models, which answer and recite; `load_hf` opens a folder of Hugging Face. Nothing
here trains: `kstore run` and `kstore sweep` do.

JAX is imported when a run or a model is first opened.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kstore_jax.api.inside import Inside
    from kstore_jax.api.model import Model, load_hf
    from kstore_jax.api.run import Run, load
    from kstore_jax.api.world import Person, Text, World

_HOMES = {
    "World": "world", "Person": "world", "Text": "world",
    "Run": "run", "load": "run",
    "Model": "model", "load_hf": "model",
    "Inside": "inside",
}  # fmt: skip
__all__ = ["Inside", "Model", "Person", "Run", "Text", "World", "load", "load_hf"]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
