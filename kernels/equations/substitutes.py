"""Substitutes: what equations may say in the place of operators that can't be translated, as a message proposes it."""

from __future__ import annotations

# The clamp: the root's gradient at 0 is infinite, where torch's norm has 0.
_NORM = "(v * v).sum(-1, keepdim=True).clamp(min=1e-24).sqrt()"

SUBSTITUTES = {
    "norm": _NORM,
    "linalg_norm": _NORM,
    "linalg_vector_norm": _NORM,
    "normalize": f"v / {_NORM}",
    "softmax": "(e := torch.exp(v - v.amax(-1, keepdim=True))) / e.sum(-1, keepdim=True)",
    "logsumexp": "(m := v.amax(-1, keepdim=True)) + torch.exp(v - m).sum(-1, keepdim=True).log()",
    "std": "v.var(-1, keepdim=True).clamp(min=1e-24).sqrt()",
    "max": "v.amax(-1, keepdim=True)",
    "amin": "-(-v).amax(-1, keepdim=True)",
    "min": "-(-v).amax(-1, keepdim=True)",
    "lerp": "v + weight * (w - v)",
    "addcmul": "v + value * w * u",
    "addcdiv": "v + value * w / u",
    "tan": "torch.sin(v) / torch.cos(v)",
    "sinh": "(torch.exp(v) - torch.exp(-v)) / 2",
    "cosh": "(torch.exp(v) + torch.exp(-v)) / 2",
    "exp2": "torch.exp(v * 0.6931471805599453)",
    "log2": "torch.log(v) / 0.6931471805599453",
    "mish": "v * torch.tanh(torch.nn.functional.softplus(v))",
    "dropout": "gatefuse.recurrent_dropout(cell), or an input that a call gives",
    "getitem": "gates, or states of other sizes by sizes=",
}
"""By the operator's name, as Python with values v, w and u (B, H); of the last two, in words."""


def proposal(operator: str) -> str:
    """The end of a rule, "; for norm write ..."; "" where there is nothing to propose."""
    found = SUBSTITUTES.get(operator)
    return f"; for {operator} write {found}" if found else ""
