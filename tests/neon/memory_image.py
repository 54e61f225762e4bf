"""Calls of kernels as a file, for a program on another processor to make them; harness.c describes the file."""

import ctypes
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

Held = ctypes.Structure | ctypes.Array | torch.Tensor


@dataclass(frozen=True)
class Call:
    """A call of a kernel.

    Attributes:
        kernel: its name in `Kernels`.
        structure: what it takes.
        held: all that it points to, and what that points to. Tensors are contiguous.
        unlike: by how much results may differ where pairs of bf16 numbers are rounded otherwise: relative, and as a
            share of a tensor's greatest number. None: by nothing.
    """

    kernel: str
    structure: ctypes.Structure
    held: tuple[Held, ...]
    unlike: tuple[float, float] | None = None

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What the kernel may read and write."""
        return [each for each in self.held if isinstance(each, torch.Tensor)]


def write(calls: Sequence[Call]) -> bytes:
    """The file."""
    return _numbers(len(calls)) + b"".join(map(_one, calls))


def read(results: bytes, calls: Sequence[Call]) -> list[list[torch.Tensor]]:
    """The tensors of each call as the program left them."""
    found, at = [], 0
    for call in calls:
        at += ctypes.sizeof(call.structure)
        found.append([])
        for each in call.held:
            size = _span(each)[1]
            if isinstance(each, torch.Tensor):
                # a copy may be written to, as torch wants it
                numbers = torch.frombuffer(bytearray(results[at : at + size]), dtype=each.dtype)
                found[-1].append(numbers.view(each.shape))
            at += size
    assert at == len(results)
    return found


def _one(call: Call) -> bytes:
    blocks = [call.structure, *call.held]
    pointers = list(_pointers(blocks))
    written = b"".join(_numbers(_span(each)[1]) + ctypes.string_at(*_span(each)) for each in blocks)
    return call.kernel.encode().ljust(32, b"\0") + _numbers(len(blocks), len(pointers)) + written + b"".join(pointers)


def _pointers(blocks: Sequence[Held]) -> Iterator[bytes]:
    """Of all structures, each word that is an address within a block."""
    spans = [_span(each) for each in blocks]
    for holder, (block, (begin, size)) in enumerate(zip(blocks, spans, strict=True)):
        if isinstance(block, torch.Tensor):
            continue
        for at, (word,) in enumerate(struct.iter_unpack("<Q", ctypes.string_at(begin, size))):
            for target, (address, length) in enumerate(spans):
                if address <= word < address + length:
                    yield _numbers(holder, 8 * at, target, word - address)


def _span(block: Held) -> tuple[int, int]:
    """Address and length in bytes."""
    if isinstance(block, torch.Tensor):
        assert block.is_contiguous()
        return block.data_ptr(), block.nbytes
    return ctypes.addressof(block), ctypes.sizeof(block)


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}q", *numbers)
