"""A device without memory and without arithmetic, so that steps at full size run on any CPU in seconds.

torch's backend for devices in Python gives fake tensors (operators, shapes, autograd and storages, but no values) a device
that is not the CPU. What would fail or wait on a GPU fails here: a tensor that was left on the CPU, `.item()`.
"""

import types
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cogtune.config.build import build
from cogtune.config.schema.checkpointing import Policy
from cogtune.model.dit import DiffusionTransformer
from cogtune.model.lora import set_trainable

DEVICE = "npy"


class _Module(types.ModuleType):
    """`torch.npy`, as far as autograd and checkpointing ask for it. It has no random numbers, so no state of them."""

    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_rng_state = staticmethod(lambda device=0: torch.zeros(1, dtype=torch.uint8))
    set_rng_state = staticmethod(lambda state, device=0: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])


@contextmanager
def _pretend_device() -> Iterator[None]:
    """Inside, tensors on `DEVICE` are fake ones, and attention is the kernel that a GPU would take."""
    if torch._C._get_privateuse1_backend_name() != DEVICE:
        backend_registration._setup_privateuseone_for_python_backend(DEVICE)
        for name in set(vars(_Module)) - set(vars(types.ModuleType)):
            setattr(getattr(torch, DEVICE), name, getattr(_Module, name))

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]

    with patch.object(F, "scaled_dot_product_attention", flash), FakeTensorMode(allow_non_fake_inputs=True):
        yield


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operators made inside, without those that are gone. ``now``, and the ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in before:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class Bytes:
    """Of activations: ``kept`` between forward and backward, and at the ``peak``."""

    kept: int
    peak: int


@dataclass(frozen=True)
class Step:
    """A training step of one clip in bf16, or a forward pass without gradients where ``policy`` is None.

    ``grid``: T, H, W of the latent; ``frozen``: `not_trainable_prefixes`. Each method runs it in a process of its own.
    """

    node: dict[str, Any]
    grid: tuple[int, int, int]
    policy: Policy | None
    frozen: Sequence[str] = ()

    def bytes(self) -> Bytes:
        return _process().submit(self._bytes).result(timeout=300)

    def flops(self) -> int:
        return _process().submit(self._flops).result(timeout=300)

    def _bytes(self) -> Bytes:
        with _pretend_device():
            network, inputs = self._setting()
            with LiveBytes() as live:
                output = self._forward(network, inputs)
                kept = live.now - output.nbytes
                self._backward(network, output)
        return Bytes(kept, live.peak)

    def _flops(self) -> int:
        with _pretend_device():
            network, inputs = self._setting()
            with FlopCounterMode(display=False) as counter:
                self._backward(network, self._forward(network, inputs))
        return counter.get_total_flops()

    def _setting(self) -> tuple[DiffusionTransformer, tuple[Tensor, Tensor, Tensor]]:
        modules, (T, H, W) = self.node["params"]["modules"], self.grid
        L = modules["pos_embed_config"]["params"]["text_length"]
        text_width = modules["patch_embed_config"]["params"]["text_hidden_size"]
        with unset_fake_temporarily(), torch.device("meta"):  # initial values cannot be drawn on the device
            network: DiffusionTransformer = build(self.node).to(torch.bfloat16)
        network.to_empty(device=DEVICE)
        set_trainable(network, self.frozen)
        network.checkpoint_activations = self.policy or Policy.NONE
        bf16 = {"dtype": torch.bfloat16, "device": DEVICE}
        x_BTCHW = torch.empty(1, T, self.node["params"]["in_channels"], H, W, **bf16)
        timesteps_B = torch.zeros(1, dtype=torch.long, device=DEVICE)
        return network, (x_BTCHW, timesteps_B, torch.empty(1, L, text_width, **bf16))

    def _forward(self, network: DiffusionTransformer, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        with torch.set_grad_enabled(self.policy is not None):
            output = network(*inputs)
        assert output.device.type == DEVICE
        return output

    def _backward(self, network: DiffusionTransformer, output: Tensor) -> None:
        if self.policy is not None:
            output.float().square().mean().backward()
            assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


@cache
def _process() -> ProcessPoolExecutor:
    """Autograd makes a thread for each device at its first backward pass, and knows no device that comes later."""
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
