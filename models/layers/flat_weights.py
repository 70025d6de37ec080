"""Which weights a layer of torch.nn's uses: the list of them that torch.nn keeps, and who may change it."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn


class FlatWeights(nn.RNNBase):
    """torch.nn's list of weights, but that each attribute is read once a forward: a parametrization may draw."""

    def _flat(self) -> list[Tensor]:
        """The weights of each layer and direction in turn: those that torch.nn's own forward would use."""
        found = self._changed()
        if found is None:
            return list(self._flat_weights)  # type: ignore[arg-type]
        # What was computed is another tensor in each call, and would keep its graph alive.
        if all(isinstance(weight, nn.Parameter) for weight in found) and not torch.compiler.is_compiling():
            self._remember(found)
        return found

    def _update_flat_weights(self) -> None:
        """As torch.nn's, which reads each attribute up to four times."""
        found = self._changed()
        if found is not None:
            self._remember(found)

    def _changed(self) -> list[Tensor] | None:
        """The attributes, where one is no longer what the list was made of; else None: who wrote into the list itself
        is right."""
        own = self._parameters
        found: list[Any] = []
        same = True
        for name, ref in zip(self._flat_weights_names, self._flat_weight_refs, strict=True):
            weight = own.get(name)
            if weight is None:
                weight = getattr(self, name, None)
            found.append(weight)
            if weight is not None and ref is not None and ref() is not weight:
                same = False
        return None if same else found

    def _remember(self, found: list[Tensor]) -> None:
        self._flat_weights = list(found)
        self._flat_weight_refs = [None if weight is None else weakref.ref(weight) for weight in found]  # type: ignore[arg-type]
        self.flatten_parameters()
