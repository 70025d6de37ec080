"""Reads of a kernel that may come before another thread's write, found in Triton's text of the compiled kernel.

Triton spreads the elements of each load and each store over a program's threads as suits it. Where a load takes what a
store wrote and the two are spread otherwise, all threads must meet in between. Only barriers that a kernel asks for are
counted, not those that Triton puts around its own exchanges through shared memory.
"""

import re

_OPERATION = re.compile(r"(?:(%[\w:]+) = )?\"?([a-z_]+\.[a-z_]+)\"?(.*)")
_NAME = re.compile(r"%\w+")
_LAYOUT = re.compile(r"!tt\.ptr<\w+>, (#[^>]*)>")
# What changes an address's shape or layout alone.
_SAME = ("ttg.convert_layout", "tt.splat", "tt.broadcast", "tt.expand_dims", "arith.extsi")


def races(text):
    """Addresses, as what they are computed of, at which a load may come too early: ``addptr(carry_ptr, ...)``."""
    found = set()
    _run(_parse(text), frozenset(), found)
    return found


def _parse(text):
    """A function as a list of loads, stores and barriers; loops and branches are lists of such lists."""
    made, body = {}, []
    arguments = set(re.findall(r"(%\w+): !tt\.ptr", next(line for line in text.splitlines() if "tt.func" in line)))
    stack = [[body]]
    for line in text.splitlines():
        line = re.sub(r" loc\(.*", "", line.strip())
        inside = stack[-1][-1]
        if line.startswith("}"):
            if line.endswith("{"):  # else, or do
                stack[-1].append([])
            elif len(stack) > 1:
                stack.pop()
            continue
        if not (match := _OPERATION.match(line)):
            continue
        name, what, rest = match.groups()
        of = _NAME.findall(rest)
        if what in ("scf.for", "scf.while", "scf.if"):
            inside.append((what, parts := [[]]))
            stack.append(parts)
        elif what in ("tt.load", "tt.store") and (layout := _LAYOUT.search(rest)):
            inside.append((what, _address(of[0], made, arguments), layout.group(1)))
        elif what.partition(".")[2] == "barrier":
            inside.append(("barrier",))
        if name:
            constant = rest.partition(" : ")[0].strip() if what == "arith.constant" else ""
            made[name.partition(":")[0]] = what, constant, of
    return body


def _address(name, made, arguments):
    """What an address is computed of; numbers that change from step to step are alike."""
    if name not in made:
        return name[1:] if name in arguments else "?"
    what, constant, of = made[name]
    if what in _SAME:
        return _address(of[0], made, arguments)
    if what.startswith("scf."):
        return "?"
    return f"{what.partition('.')[2]}({constant or ', '.join(_address(each, made, arguments) for each in of)})"


def _run(body, stored, found):
    """What was stored since all threads last met, after ``body``."""
    for what, *rest in body:
        if what == "barrier":
            stored = frozenset()
        elif what == "tt.store":
            stored |= {tuple(rest)}
        elif what == "tt.load":
            found |= {address for address, layout in stored if address == rest[0] and layout != rest[1]}
        elif what == "scf.if":
            after = [_run(part, stored, found) for part in rest[0]]
            stored = frozenset().union(*after, *[stored] * (len(after) == 1))
        else:
            # A loop may run no time, or go on with what its last turn stored.
            for _ in range(2):
                for part in rest[0]:
                    stored |= _run(part, stored, found)
    return stored
