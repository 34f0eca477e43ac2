"""What every competitor trains: one place, so that none can differ."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """A GPT, its batch, and where it runs.

    Attributes:
      device: `cpu` or `gpu`.
      threads: of the CPU; each competitor is kept on so many processors.
      compile: whether the PyTorch competitors are compiled.
    """

    layers: int = 4
    width: int = 256
    heads: int = 4
    window: int = 256
    batch: int = 16
    vocabulary: int = 2048
    device: str = "cpu"
    threads: int = 2
    compile: bool = False
