"""The critic: a small network on the hidden state of the last prompt token."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gtrturbo.errors import GtrTurboError
from gtrturbo.models.sizes import value_head_widths
from gtrturbo.models.whole_weights import require_numbers
from gtrturbo.store.mending import mend_of
from gtrturbo.store.names import VALUE_HEAD
from gtrturbo.store.safetensors_files import SAFETENSORS_METADATA


class ValueHead(nn.Module):
    """Value of a state from the last prompt token's hidden state, in float32: Linear-ReLU-Linear-ReLU-Linear.

    A new head answers 0 everywhere: its last layer starts at zero.

    Source: RL4VLM (Zhai et al., 2024); sizes 1024 and 512 as in GTR-Turbo's release, at most 4 and 2 times the model's width.
    """

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        hidden, first, second = sizes
        self.layers = nn.Sequential(
            nn.Linear(hidden, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 1)
        )

    @classmethod
    def new(cls, hidden_size: int, *, seed: int) -> "ValueHead":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            head = cls(value_head_widths(hidden_size))
        for parameter in head.layers[-1].parameters():
            nn.init.zeros_(parameter)
        return head

    def forward(self, state: Tensor) -> Tensor:
        """Value states [B, H] float32 as [B] float32."""
        return self.layers(state).sum(-1)  # A sum of one: FSDP2 puts its hooks on outputs that are no views.

    def save(self, folder: Path) -> None:
        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()}, folder / VALUE_HEAD, SAFETENSORS_METADATA
        )

    @classmethod
    def load(cls, folder: Path) -> "ValueHead | None":
        """Load a checkpoint's head; None if it has none yet.

        Raises:
            GtrTurboError: the file is damaged, or holds other tensors than those of a head.
        """
        file = folder / VALUE_HEAD
        if not file.is_file():
            return None
        try:
            head = cls.of(load_file(file))
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, IndexError) as error:
            raise GtrTurboError(f"{file} is no value head: {error}.", mend_of(folder)) from None
        require_numbers(file, head.named_parameters())
        return head

    @property
    def width(self) -> int:
        """Width of the states that it values."""
        return self.layers[0].weight.shape[1]  # type: ignore[return-value]

    @classmethod
    def of(cls, weights: dict[str, Tensor]) -> "ValueHead":
        """Make a head of its tensors by name."""
        first, second = weights["layers.0.weight"], weights["layers.2.weight"]
        if any(not values.is_floating_point() for values in weights.values()):
            raise ValueError("its tensors are whole numbers")
        head = cls((first.shape[1], first.shape[0], second.shape[0]))
        head.load_state_dict(weights)
        return head
