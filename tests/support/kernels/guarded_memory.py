"""Triton's interpreter with each tensor of a launch between guards, so that every load and store is checked.

The tensors are copied into one piece of memory, wide gaps of not-a-number between them, and back after the launch. An
address that a mask lets through must lie within a tensor of that launch; else it is noted and not followed.
"""

from __future__ import annotations

import functools
import inspect
import math
from contextlib import contextmanager

import numpy as np
import torch
import triton.language as tl  # noqa: F401, Triton's interpreter looks for it in the globals of what it runs
from torch import Tensor
from triton.runtime import interpreter

# Wider than what a wrong mask reaches at the sizes of tests: a tile of 64 samples of 4 gates of 64 units.
GUARD = 1 << 16
BUILDER = interpreter.interpreter_builder


class Memory:
    """Tensors by name, each storage between guards: ``held`` are their stand-ins; addresses are numbers of bytes."""

    def __init__(self, tensors: dict[str, Tensor]):
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors.values()}
        self.size = GUARD + sum(_rounded(s.nbytes()) + GUARD for s in storages.values())
        self._bytes = np.full(self.size, 255, np.uint8)  # not-a-number in every dtype
        whole = torch.from_numpy(self._bytes)
        self.first = whole.data_ptr()
        self._pairs, begins, begin = [], {}, GUARD
        for pointer, storage in storages.items():
            begins[pointer] = begin
            theirs = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._pairs.append((theirs, whole[begin : begin + storage.nbytes()]))
            begin += _rounded(storage.nbytes()) + GUARD
        for theirs, ours in self._pairs:
            ours.copy_(theirs)
        self.names = list(tensors)
        self._owners = np.full(self.size, -1, np.int16)
        self.held = {}
        for k, (name, t) in enumerate(tensors.items()):
            item, begin = t.element_size(), begins[t.untyped_storage().data_ptr()]
            held = torch.empty(0, dtype=t.dtype)
            held.set_(whole.untyped_storage(), begin // item + t.storage_offset(), t.shape, t.stride())
            self.held[name] = held
            if t.numel():
                last = sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
                at = held.data_ptr() - self.first
                self._owners[at : at + (last + 1) * item] = k

    def give_back(self) -> None:
        """Copy what was stored to the tensors themselves."""
        for theirs, ours in self._pairs:
            theirs.copy_(ours)

    def inside(self, pointers: np.ndarray, size: int) -> np.ndarray:
        """Which of the addresses begin and end within a tensor, for values of ``size`` bytes."""
        at = pointers.astype(np.int64) - self.first
        there = (at >= 0) & (at + size <= self.size)
        at = np.where(there, at, 0)
        return there & (self._owners[at] >= 0) & (self._owners[at + size - 1] == self._owners[at])

    def offsets(self, pointers: np.ndarray) -> np.ndarray:
        return pointers.astype(np.int64) - self.first

    def name(self, offset: int) -> str:
        """The tensor that an offset lies in, or is nearest to, from where on it counts."""
        if 0 <= offset < self.size and self._owners[offset] >= 0:
            return self.names[self._owners[offset]]
        taken = np.flatnonzero(self._owners >= 0)
        near = taken[np.abs(taken - offset).argmin()]
        by = offset - near
        return f"{abs(by)} bytes {'beyond' if by > 0 else 'before'} {self.names[self._owners[near]]}"

    def word(self, pointer: int, size: int = 4) -> int:
        """The number of so many bytes, 4 or 2, at an address."""
        return int(self._bytes[pointer - self.first :][:size].view(f"u{size}")[0])

    def put(self, pointer: int, value: int, size: int = 4) -> None:
        self._bytes[pointer - self.first :][:size].view(f"u{size}")[0] = value

    def add(self, pointer: int, value: int) -> None:
        self._bytes[pointer - self.first :][:4].view(np.uint32)[0] += np.uint32(value)


def _rounded(size: int) -> int:
    return -(-size // 64) * 64


class Watch:
    """What is told of each launch and access. ``faults`` are sentences, ``launches`` the names of kernels."""

    def __init__(self) -> None:
        self.faults: set[str] = set()
        self.launches: list[str] = []
        self.memory: Memory

    def run(self, calls: list) -> None:
        """Run the programs of a launch, pairs of a place in the grid and what to call: here one after the other."""
        for place, call in calls:
            BUILDER.set_grid_idx(*place)
            call()

    def access(self, kind: str, pointers: np.ndarray, size: int) -> np.ndarray:
        """Note a load or a store of the addresses; which of them may be followed."""
        inside = self.memory.inside(pointers, size)
        if not inside.all():
            where = self.memory.name(int(self.memory.offsets(pointers[~inside])[0]))
            rule = f"a {kind} must lie within the tensors of the launch"
            self.faults.add(f"{self.launches[-1]}: {rule}. Got an address {where}.")
        return inside

    def hooks(self) -> dict:
        """Methods of the interpreter's builder by name, in place of its own."""
        load, store = BUILDER.create_masked_load, BUILDER.create_masked_store

        def checked(kind: str, ptrs, mask):
            size = interpreter._get_np_dtype(ptrs.get_element_ty()).itemsize
            pointers, taken = np.broadcast_arrays(ptrs.data, mask.data.astype(bool))
            followed = taken.copy()
            followed[taken] = self.access(kind, pointers[taken], size)
            return interpreter.TensorHandle(followed, mask.dtype)

        return {
            "create_masked_load": lambda ptrs, mask, *rest: load(ptrs, checked("load", ptrs, mask), *rest),
            "create_masked_store": lambda ptrs, value, mask, *rest: store(
                ptrs, value, checked("store", ptrs, mask), *rest
            ),
        }


def _once(patch):
    """The interpreter's patch of the language, which it else applies at each call of a device function: a third of all
    that a launch takes."""
    modules = set()

    def patch_once(fn):
        if id(fn.__globals__) not in modules:
            modules.add(id(fn.__globals__))
            patch(fn)

    return patch_once


@contextmanager
def watching(watch: Watch):
    """A context in which the interpreter's launches are told to a watch; it holds the launches' programs too."""

    class Executor(interpreter.GridExecutor):
        def __init__(self, fn, *args):
            super().__init__(fn, *args)
            calls = []

            # The interpreter calls this for each program in turn; they run when all are known.
            @functools.wraps(fn)
            def gathered(**arguments):
                calls.append((BUILDER.grid_idx, functools.partial(fn, **arguments)))
                if len(calls) == math.prod(BUILDER.grid_dim):
                    patch, interpreter._patch_lang = interpreter._patch_lang, _once(interpreter._patch_lang)
                    try:
                        watch.run(calls)
                    finally:
                        interpreter._patch_lang = patch

            gathered.__signature__ = inspect.signature(fn)
            self.fn = gathered
            watch.launches.append(fn.__name__)

        def _init_args_hst(self, args, options):
            tensors = {n: a for n, a in zip(self.arg_names, args, strict=False) if isinstance(a, Tensor)}
            watch.memory = Memory(tensors)
            return [watch.memory.held.get(n, a) for n, a in zip(self.arg_names, args, strict=False)], options

        def _restore_args_dev(self, *_):
            watch.memory.give_back()

    hooks, plain = watch.hooks(), interpreter.GridExecutor
    interpreter.GridExecutor = Executor
    vars(BUILDER).update(hooks)
    try:
        yield watch
    finally:
        interpreter.GridExecutor = plain
        for name in hooks:
            del vars(BUILDER)[name]
