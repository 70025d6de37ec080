"""The few PTX instructions of the barrier and of the exchange, run for one thread: so that
what is tested is the kernels' own text."""

import operator
import re

_ORDERS = {"relaxed", "acquire", "release", "acq_rel"}
_COMPARE = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}


class TrapError(Exception):
    """The program has ended itself."""


_STATEMENT = re.compile(r"(?:@(!?)(\w+)\s+)?([\w.]+)\s*(.*)")


def run(text, operands, machine, thread, outputs=1):
    """The numbers that thread ``thread`` leaves in $0 and on, as many as ``outputs``; ``operands`` are those behind.

    The machine has ``special(name)``, what a register such as %ctaid.x holds; ``load(address, acquires, thread, into,
    size)``, of 4 bytes or 2 into a register of that name, and ``add(address, value, releases, thread)`` of 32 bits,
    which order others' accesses where they say so; ``store(address, value, size)``, which orders none; ``pause()``.

    Raises:
        NotImplementedError: an instruction isn't one of these.
        TrapError: the program has ended itself.
    """
    statements, labels = _parse(text)
    registers = {f"${k}": value for k, value in enumerate(operands, outputs)} | {"%tid.x": thread}
    at = 0
    while at < len(statements):
        at += 1
        negated, predicate, name, arguments = statements[at - 1]
        if predicate and bool(registers[predicate]) == bool(negated):
            continue
        if name == "bra":
            at = labels[arguments[0]]
            continue
        _execute(name.split("."), arguments, registers, machine, thread)
    return [registers[f"${k}"] for k in range(outputs)]


def _parse(text):
    statements, labels = [], {}
    for line in re.sub(r"//[^\n]*", "", text).replace(";", "\n").replace(":", ":\n").splitlines():
        line = line.strip(" {}\t")
        if line.endswith(":"):
            labels[line[:-1]] = len(statements)
        elif line and not line.startswith(".reg"):
            negated, predicate, name, arguments = _STATEMENT.fullmatch(line).groups()
            statements.append((negated, predicate, name, [a.strip(" []{}") for a in arguments.split(",")]))
    return statements, labels


def _execute(name, arguments, registers, machine, thread):
    def value(argument):
        if argument.lstrip("-").isdigit():
            return int(argument)
        return registers[argument] if argument in registers else machine.special(argument)

    target, *sources = arguments
    orders = _ORDERS.intersection(name)
    # An order among the threads of a block is none among programs.
    ordered = "gpu" in name or "sys" in name
    match name:
        case ["red", *_, "add", "u32"]:
            machine.add(value(target), value(sources[0]), ordered and bool(orders & {"release", "acq_rel"}), thread)
        case ["ld", *_, "u32" | "b32" | "b16" as kind]:
            size = int(kind[1:]) // 8
            for k, each in enumerate(arguments[:-1]):  # of a vector
                registers[each] = machine.load(
                    value(arguments[-1]) + size * k, ordered and "acquire" in orders, thread, each, size
                )
        case ["st", "relaxed", "gpu", "global", "b32" | "b16" as kind]:
            machine.store(value(target), value(sources[0]) & 2 ** int(kind[1:]) - 1, int(kind[1:]) // 8)
        case ["cvt", "u32", "u16"] | ["cvt", "u16", "u32"]:
            registers[target] = value(sources[0]) & 0xFFFF
        case ["mov", "b32"]:  # of two halves
            low, high = map(value, sources)
            registers[target] = low | high << 16
        case ["and", "b32"]:
            registers[target] = _wrapped(value(sources[0])) & _wrapped(value(sources[1]))
        case ["or", "b32"]:
            registers[target] = _wrapped(value(sources[0])) | _wrapped(value(sources[1]))
        case ["trap"]:
            raise TrapError
        case ["setp", how, "and" | "or" as joined, "u32"]:
            found, with_ = _COMPARE[how](*map(value, sources[:2])), bool(registers[sources[2]])
            registers[target] = found and with_ if joined == "and" else found or with_
        case ["setp", how, "u32"]:
            registers[target] = _COMPARE[how](*map(value, sources))
        case ["nanosleep", "u32"]:
            machine.pause()
        case ["mov", "u32"]:
            registers[target] = value(sources[0])
        case ["add", "u32"]:
            registers[target] = _wrapped(value(sources[0]) + value(sources[1]))
        case ["mul", "lo", "u32"]:
            registers[target] = _wrapped(value(sources[0]) * value(sources[1]))
        case ["mad", "lo", "u32"]:
            registers[target] = _wrapped(value(sources[0]) * value(sources[1]) + value(sources[2]))
        case ["shr", "u32"]:
            registers[target] = value(sources[0]) >> value(sources[1])
        case _:
            raise NotImplementedError(f"PTX here must be one of the barrier's instructions. Got {'.'.join(name)}.")


def _wrapped(value):
    return value & 0xFFFFFFFF
