"""The contract of an architecture: the layers it adds to the blocks of `transformer.py`, and how
their parameters are sharded, adapted, counted and exchanged."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flax import linen as nn

from kstore_jax.config.registry import Registry
from kstore_jax.model.hf_layouts import HFLayout


class Architecture:
    """Adds layers to the transformer's blocks; the defaults add none.

    A layer is a flax module with the field `shape`. Its call takes the normed input x (B, L, D) of
    attention or of the MLP, and `lengths_B` and `cache_positions_B` as `transformer.Transformer`
    takes them. It returns the input to use instead, (B, L, D). x is of `shape.activation_dtype`,
    bfloat16 on accelerators; what a layer returns is rounded to it. `cache.neighbours` gives a
    layer the inputs of other positions, also in generation.

    In a block the layers are called `<name>_attention` and `<name>_mlp`. Muon moves parameters
    called `kernel`; those called `bias` or `scale` have no weight decay.

    Attributes:
      name: its name in `model.architecture`.
      Config: the frozen dataclass of its own fields, the value of `shape.architecture`.
      before_attention: class of the layer between norm and attention; None: none.
      before_mlp: class of the layer between norm and MLP; None: none.
      adapter_sites: modules of a block whose kernels LoRA updates where its `sites` are empty.
      sharding: the last one or two names of a parameter's path, such as `out/kernel` -> the axis
        of the device mesh that each of its dimensions is sharded over, None for a dimension that is
        not. It holds for all architectures. Kernels without a rule are sharded by inputs over
        `fsdp` and by outputs over `tensor`; other parameters without one are replicated.
      hf_layouts: `model_type` of Hugging Face -> layout of the networks that it covers, with the
        defaults of `Config`. Empty: networks are not read from or written for Hugging Face.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    before_attention: ClassVar[type[nn.Module] | None] = None
    before_mlp: ClassVar[type[nn.Module] | None] = None
    adapter_sites: ClassVar[Sequence[str]] = ("query", "value")
    sharding: ClassVar[Mapping[str, tuple[str | None, ...]]] = {}
    hf_layouts: ClassVar[Mapping[str, HFLayout]] = {}

    def extra_flops(self, shape: Any, seq_len: int) -> int:
        """Returns the FLOP of forward and backward a token beyond attention and 6 a parameter.

        Args:
          shape: the network's `Shape`.
          seq_len: tokens of a text.
        """
        return 0


ARCHITECTURES: Registry[Architecture] = Registry("architecture", "kstore_jax.model")
