"""A team of threads in compiled code: how it begins, and how its threads wait for one another."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from gatefuse.kernels.codegen.llvm.code import I32, I64, Code, Number
from gatefuse.kernels.codegen.llvm.fields import Fields
from gatefuse.kernels.codegen.llvm.products.packing import Share

# How many threads there may be, and the addresses of GOMP_parallel and omp_get_num_threads, or 0; counts that begin at
# 0, of threads that joined and of their meetings.
TEAM = ("threads", "pool", "team", "joined", "arrived")
# Of waiting, some microseconds, after which a thread gives up its processor at each turn: there may be more threads
# than processors, or others that want them.
_TURNS = 256


def define_run(
    module: ir.Module, fields: Fields, work: Callable[[Code, Number, dict[str, Number], Share], None]
) -> None:
    """Add run(arguments), which does the work, or has each thread of a team do its share, where ``pool`` is the address
    of GOMP_parallel."""
    body = Code(module, "body", [("arguments", I64)])
    base = body.argument(0)
    given = fields.load(body, base)
    work(body, base, given, _place_in_team(body, fields, base, given))
    body.finish()

    code = Code(module, "run", [("arguments", I64)], public=True)
    base = code.argument(0)
    pool = code.load_number(fields.place(base, "pool"))
    with code.either(pool.compare("==", 0)) as (alone, together):
        with alone:
            code.builder.call(body.function, [base.value])
        with together:
            kind = ir.PointerType(ir.FunctionType(ir.VoidType(), [I64, I64, I32, I32]))
            function = code.builder.inttoptr(pool.value, kind)
            threads = code.builder.trunc(code.load_number(fields.place(base, "threads")).value, I32)
            entry = code.builder.ptrtoint(body.function, I64)
            code.builder.call(function, [entry, base.value, threads, I32(0)])
    code.finish()


def _place_in_team(code: Code, fields: Fields, base: Number, given: dict[str, Number]) -> tuple[Number, Number]:
    """Which of the team's threads this is, and how many there are, which may be fewer than asked for; ``team`` is the
    address of omp_get_num_threads."""
    share, shares = code.variable(I64, I64(0)), code.variable(I64, I64(1))
    with code.when(given["pool"].compare("!=", 0)):
        kind = ir.PointerType(ir.FunctionType(I32, []))
        function = code.builder.inttoptr(given["team"].value, kind)
        shares.set(code.builder.zext(code.builder.call(function, []), I64))
        share.set(code.builder.atomic_rmw("add", fields.place(base, "joined").pointer, I64(1), "monotonic"))
    return Number(code, share.get()), Number(code, shares.get())


def meet(code: Code, fields: Fields, base: Number, times: Number, shares: Number) -> None:
    """Wait until all threads of a team have come here so many times; what each has written is then seen by all."""
    b = code.builder
    wait, again, end = (code.function.append_basic_block(name) for name in ("wait", "again", "met"))
    arrived = fields.place(base, "arrived").pointer
    alone = shares.compare("==", 1)
    arrive = code.function.append_basic_block("arrive")
    b.cbranch(alone, end, arrive)
    b.position_at_end(arrive)
    b.atomic_rmw("add", arrived, I64(1), "acq_rel")
    b.branch(wait)
    b.position_at_end(wait)
    turns = b.phi(I64)
    turns.add_incoming(I64(0), arrive)
    seen = Number(code, b.load_atomic(arrived, "acquire", 8, typ=I64))
    b.cbranch(seen.compare(">=", times * shares), end, again)
    b.position_at_end(again)
    if "x86_64" in code.module.triple:
        code.call("llvm.x86.sse2.pause", ir.VoidType())
    with b.if_then(b.icmp_unsigned(">", turns, I64(_TURNS))):
        code.call("sched_yield", I32)
    turns.add_incoming(b.add(turns, I64(1)), b.block)
    b.branch(wait)
    b.position_at_end(end)
