"""Which operators a cell may use: each ATen operator as expressions, each primitive as Triton and as torch text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gatefuse.kernels.equations.activations import ACTIVATIONS
from gatefuse.kernels.equations.expression import Expr, Graph
from gatefuse.kernels.equations.substitutes import proposal


class TranslationError(RuntimeError):
    """A cell's equations can't be made into kernels; the eager driver still runs them."""


class Primitive(NamedTuple):
    """How an operation is printed: ``{0}`` stands for its first argument. Infix ones have a precedence."""

    triton: str
    torch: str
    precedence: int = 9
    transcendental: bool = False


def _call(name: str, args: int = 1, torch: str = "", transcendental: bool = False, triton: str = "") -> Primitive:
    slots = ", ".join(f"{{{k}}}" for k in range(args))
    return Primitive(f"{triton or name}({slots})", f"{torch or 'torch.' + name}({slots})", 9, transcendental)


def _infix(sign: str, precedence: int) -> Primitive:
    text = f"{{0}} {sign} {{1}}"
    return Primitive(text, text, precedence)


# Over a row's units; a trace is cut there (equations/tracing/reductions.py).
REDUCTIONS = ("amax", "mean", "sum", "var")

# As in Python: below & and |, and a chain of them means another thing.
COMPARED = 2

# sigmoid, tanh and the like are device functions of mathlib.py; tl. marks Triton's own.
PRIMITIVES: dict[str, Primitive] = {
    "add": _infix("+", 5),
    "sub": _infix("-", 5),
    "mul": _infix("*", 6),
    "div": _infix("/", 6),
    "neg": Primitive("-{0}", "-{0}", 7),
    "eq": _infix("==", COMPARED),
    "ne": _infix("!=", COMPARED),
    "lt": _infix("<", COMPARED),
    "le": _infix("<=", COMPARED),
    "gt": _infix(">", COMPARED),
    "ge": _infix(">=", COMPARED),
    "and": Primitive("{0} & {1}", "torch.logical_and({0}, {1})", 4),
    "or": Primitive("{0} | {1}", "torch.logical_or({0}, {1})", 3),
    "not": Primitive("{0} == 0", "torch.logical_not({0})", COMPARED),
    "where": _call("where", 3, triton="tl.where"),
    "maximum": _call("maximum", 2),
    "minimum": _call("minimum", 2),
    # the same values as maximum and minimum, but another gradient where the two are equal
    "clamp_min": _call("clamp_min", 2, triton="maximum"),
    "clamp_max": _call("clamp_max", 2, triton="minimum"),
    # a value beyond which no gradient goes
    "stop": Primitive("({0})", "({0}).detach()"),
    "abs": _call("abs", triton="tl.abs"),
    "relu": _call("relu"),
    "floor": _call("floor", triton="tl.floor"),
    "remainder": _call("remainder", 2),
    "exp": _call("exp", triton="tl.exp", transcendental=True),
    "log": _call("log", triton="tl.log", transcendental=True),
    "log1p": _call("log1p", transcendental=True),
    "expm1": _call("expm1", transcendental=True),
    "erf": _call("erf", triton="tl.erf", transcendental=True),
    "sin": _call("sin", triton="tl.sin", transcendental=True),
    "cos": _call("cos", triton="tl.cos", transcendental=True),
    "sqrt": _call("sqrt", triton="tl.sqrt_rn"),
    "sigmoid": _call("sigmoid", transcendental=True),
    "tanh": _call("tanh", transcendental=True),
    "log_sigmoid": _call("log_sigmoid", torch="torch.nn.functional.logsigmoid", transcendental=True),
}


def translate(graph: Graph, aten: str, args: tuple[Any, ...], kwargs: dict[str, Any], written: str = "") -> Any:
    """The expression of a call of the ATen operator of that name (without overload), which somebody wrote by another.

    Raises:
        TranslationError: the operator has no pointwise translation.
    """
    if aten not in _ATEN:
        raise TranslationError(
            f"an operator in a cell must be one that gatefuse.operator_names() lists{proposal(written or aten)}. "
            f"Got {written or aten}, which can't be translated"
        )
    if aten not in _OF_TRUTHS:  # where a truth is a number, it is 1 or 0
        args = tuple([_number(graph.make, a) for a in args])
    return _ATEN[aten](graph.make, *args, **kwargs)


def operator_names() -> list[str]:
    """The operators of torch that equations may use and still be made into kernels, by their names in ATen."""
    return sorted((*REDUCTIONS, *(n for n in _ATEN if not n.endswith(("_backward", "_")) and n not in _PLUMBING)))


Make = Callable[..., Expr]


def _number(make: Make, value: Any) -> Any:
    if not isinstance(value, Expr):
        return value
    if isinstance(value.number, bool):
        return make("add", float(value.number), 0.0)
    return make("where", value, 1.0, 0.0) if value.op in TRUTHS else value


def _truth(make: Make, value: Any) -> Any:
    """Anything as a truth: a number is one where it isn't zero."""
    if value.op in TRUTHS or isinstance(value.number, bool):
        return value
    return make("ne", value, 0.0)


def _logic(op: str) -> Callable[..., Any]:
    return lambda make, *args: make(op, *[_truth(make, a) for a in args])


def _add(make: Make, a, b, alpha=1):
    return make("add", a, make("mul", b, alpha))


def _sub(make: Make, a, b, alpha=1):
    return make("sub", a, make("mul", b, alpha))


def _div(make: Make, a, b, rounding_mode=None):
    if rounding_mode not in (None, "floor"):
        raise TranslationError(f"div must have rounding_mode None or 'floor'. Got {rounding_mode!r}")
    quotient = make("div", a, b)
    if rounding_mode is None:
        return quotient
    # A quotient that is rounded may be the next whole number; this one is nearly whole.
    whole = make("div", make("sub", a, make("remainder", a, b)), b)
    rounded = make("floor", make("add", whole, 0.5))
    number = b.number if isinstance(b, Expr) else b
    if number is None:
        return make("where", make("eq", b, 0.0), quotient, rounded)
    return rounded if number else quotient


def _pow(make: Make, base, exponent):
    if exponent == 0.5:
        return make("sqrt", base)
    if exponent not in (-2, -1, 0, 1, 2, 3, 4):
        raise TranslationError(f"an exponent must be 0.5 or a whole number from -2 to 4. Got {exponent}")
    result = make("mul", 1.0, 1.0)
    for _ in range(abs(int(exponent))):
        result = make("mul", result, base)
    return result if exponent >= 0 else make("div", 1.0, result)


def _clamp(make: Make, x, low=None, high=None, *, min=None, max=None):
    low, high = (low if min is None else min), (high if max is None else max)
    x = x if low is None else make("clamp_min", x, low)
    return x if high is None else make("clamp_max", x, high)


def _clamp_max(make: Make, x, high):
    return make("clamp_max", x, high)


def _sign(make: Make, x):
    return make("where", make("gt", x, 0.0), 1.0, make("where", make("lt", x, 0.0), -1.0, 0.0))


def _convert(make: Make, x, dtype=None, **_):
    if dtype is not None and not dtype.is_floating_point:
        raise TranslationError(f"a conversion in a cell must be to a floating dtype. Got {dtype}")
    return _number(make, x)


def _scalar(make: Make, value, **_):
    return make("add", value, 0.0)


def _same(make: Make, x, **_):
    return x


def _masked_fill(make: Make, x, mask, value):
    return make("where", mask, value, x)


def _log_sigmoid_backward(make: Make, g, x, _buffer):
    return make("mul", g, make("sigmoid", make("neg", x)))


TRUTHS = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not")
_LOGIC = ("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not", "logical_and_")
_OF_TRUTHS = frozenset((*_LOGIC, "where", "masked_fill", "masked_fill_", "_to_copy", "detach", "clone", "alias"))


def _plain(op: str) -> Callable[..., Expr]:
    return lambda make, *args: make(op, *args)


_ATEN: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "rsub": lambda make, a, b, alpha=1: _sub(make, b, a, alpha),
    "div": _div,
    "floor_divide": lambda make, a, b: _div(make, a, b, "floor"),
    "pow": _pow,
    "square": lambda make, x: make("mul", x, x),
    "reciprocal": lambda make, x: make("div", 1.0, x),
    "rsqrt": lambda make, x: make("div", 1.0, make("sqrt", x)),
    "clamp": _clamp,
    "clamp_min": lambda make, x, low: make("clamp_min", x, low),
    "clamp_max": _clamp_max,
    "sgn": _sign,
    "sign": _sign,
    "masked_fill": _masked_fill,
    "masked_fill_": _masked_fill,
    "log_sigmoid_forward": lambda make, x: (make("log_sigmoid", x), make("mul", 0.0, 0.0)),
    "_to_copy": _convert,
    "scalar_tensor": _scalar,
    "full_like": lambda make, x, value, **_: _scalar(make, value),
    "zeros_like": lambda make, x, **_: _scalar(make, 0.0),
    "ones_like": lambda make, x, **_: _scalar(make, 1.0),
    "detach": _same,
    "clone": _same,
    "alias": _same,
    "logical_and": _logic("and"),
    "logical_and_": _logic("and"),
    "logical_or": _logic("or"),
    "logical_not": _logic("not"),
    "bitwise_and": _plain("and"),
    "bitwise_or": _plain("or"),
    "bitwise_not": _plain("not"),
    **{
        op: _plain(op)
        for op in (
            *("mul", "neg", "abs", "maximum", "minimum", "where", "eq", "ne", "lt", "le", "gt", "ge", "relu"),
            *("exp", "log", "log1p", "expm1", "erf", "sin", "cos", "sqrt", "sigmoid", "tanh", "floor"),
            "remainder",
        )
    },
    **ACTIVATIONS,
    "sigmoid_backward": lambda make, g, y: make("mul", make("mul", g, y), make("sub", 1.0, y)),
    "tanh_backward": lambda make, g, y: make("mul", g, make("sub", 1.0, make("mul", y, y))),
    "threshold_backward": lambda make, g, x, at: make("where", make("le", x, at), 0.0, g),
    "log_sigmoid_backward": _log_sigmoid_backward,
}
_PLUMBING = ("_to_copy", "scalar_tensor", "log_sigmoid_forward", "full_like", "alias")
