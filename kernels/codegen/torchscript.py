"""A program as a TorchScript loop over time: ATen operators alone, one addmm a product, no Python between the steps."""

from __future__ import annotations

from collections.abc import Sequence

from gatefuse.kernels.codegen.printer import Printer, safe
from gatefuse.kernels.equations.program import Product, Program

_FEATURES = "weight_ih.size(1)"
_PLAIN = """\
def loop(x: Tensor, initial: List[Tensor], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Optional[Tensor],
         bias_hh: Optional[Tensor], parameters: List[Tensor], reverse: bool, all_states: bool):
"""
_MASKED = """\
def masked_loop(x: Tensor, initial: List[Tensor], weight_ih: Tensor, weight_hh: Tensor, bias_ih: Optional[Tensor],
                bias_hh: Optional[Tensor], parameters: List[Tensor], reverse: bool, all_states: bool,
                restarts: Optional[Tensor], fresh: List[Tensor], live: Optional[Tensor]):
"""


def torchscript_source(program: Program) -> str:
    """Two functions: ``loop``, and ``masked_loop`` with resets and lengths. Shapes and meaning as in drivers.Task, but
    that inputs beside the gates lie behind the features of x, H columns each; both return the sequences and the final
    states."""
    return f"# Generated from the equations of {program.cell.name}.\n\n" + "\n\n".join(
        head + "\n".join(f"    {line}" for line in _body(program, masked)) + "\n"
        for head, masked in ((_PLAIN, False), (_MASKED, True))
    )


def _body(program: Program, masked: bool) -> list[str]:
    states = [safe(s) for s in program.cell.states]
    loop = _step(program, masked)
    return [
        *_before(program),
        "steps = x.size(0)",
        *(f"{s} = initial[{k}]" for k, s in enumerate(states)),
        *(f"seq_{s}: List[Tensor] = []" for s in states),
        "for k in range(steps):",
        *(f"    {line}" for line in loop),
        "if reverse:",
        *(f"    seq_{s}.reverse()" for s in states),
        f"sequences = [torch.stack(seq_{states[0]})]",
        "if all_states:",
        f"    sequences = [{', '.join(f'torch.stack(seq_{s})' for s in states)}]",
        *_reached(program),
        f"return sequences, [{', '.join(states)}]",
    ]


def _reached(program: Program) -> list[str]:
    """Zero from each input that no gradient would reach, so that all have one, as by every other driver."""
    cell = program.cell
    texts = {"x": ["gates"], "R": ["weight_hh", "bias"]}
    texts |= {name: [f"initial[{k}]"] for k, name in enumerate(cell.states)}
    texts |= {name: [safe(name)] for name in cell.parameters}
    idle = [text for name in sorted(program.idle) for text in texts[name]]
    if not idle:
        return []
    lines = [f"zero = {' + '.join(f'{text}.flatten()[:0].sum()' for text in idle)}"]
    lines += ["sequences = [sequence + zero for sequence in sequences]"]
    return lines + [f"{safe(s)} = {safe(s)} + zero" for s in cell.states]


def _summed(program: Program, product: Product) -> bool:
    """x and bias can join the product's addmm: all its gates are used as x + r alone."""
    sums = {slot.column for slot in program.slots if slot.gate >= 0 and slot.column >= 0}
    return all(product.first + k in sums for k in range(len(product.gates)))


def _before(program: Program) -> list[str]:
    """What is computed once: the input product, and weights, biases and inputs cut by product."""
    N, M = len(program.cell.input_gates), len(program.cell.recurrent_gates)
    of_gates = f"x[:, :, :{_FEATURES}]" if program.cell.inputs else "x"
    lines = [
        f"gates = torch.nn.functional.linear({of_gates}, weight_ih)",
        "if bias_ih is not None:",
        "    gates = gates + bias_ih",
        "no_bias = torch.zeros(weight_hh.size(0), dtype=x.dtype, device=x.device)",
        "bias = no_bias if bias_hh is None else bias_hh",
    ]
    for k, product in enumerate(program.products):
        if product.reduces:
            continue
        lines.append(f"weight_{k} = {_cut('weight_hh', product.gates, M, 0)}.t()")
        lines.append(f"bias_{k} = {_cut('bias', product.gates, M, 0)}")
        if _summed(program, product):
            rows = {slot.column: slot.gate for slot in program.slots}
            of_x = tuple(rows[column] for column in product.columns)
            lines.append(f"x_{k} = ({_cut('gates', of_x, N, 2)} + bias_{k}).unbind(0)")
    for slot in program.slots:
        if slot.gate >= N:
            beside = f"x[:, :, {_FEATURES}:].chunk({len(program.cell.inputs)}, 2)[{slot.gate - N}]"
            lines.append(f"in_{slot.gate} = {beside}.unbind(0)")
        elif slot.gate >= 0 and not _in_addmm(program, slot.column):
            lines.append(f"in_{slot.gate} = gates.chunk({N}, 2)[{slot.gate}].unbind(0)")
    lines += [f"{safe(p)} = parameters[{k}]" for k, p in enumerate(program.cell.parameters)]
    return lines


def _cut(name: str, gates: Sequence[int], G: int, dim: int) -> str:
    if tuple(gates) == tuple(range(G)):
        return name
    if len(gates) == 1:
        return f"{name}.chunk({G}, {dim})[{gates[0]}]"
    rows = f"torch.tensor({list(gates)}, device=x.device)"
    return f"{name}.unflatten({dim}, ({G}, -1)).index_select({dim}, {rows}).flatten({dim}, {dim + 1})"


def _in_addmm(program: Program, column: int) -> bool:
    return any(
        p.first <= column < p.first + len(p.gates) and _summed(program, p) for p in program.products if column >= 0
    )


def _step(program: Program, masked: bool) -> list[str]:
    cell = program.cell
    states = [safe(s) for s in cell.states]
    lines = ["step = steps - 1 - k if reverse else k"]
    if masked:
        lines += [f"old_{s} = {s}" for s in states]
        lines += ["if restarts is not None:", "    at = restarts[step].unsqueeze(1)"]
        lines += [f"    {s} = torch.where(at, fresh[{k}], {s})" for k, s in enumerate(states)]
    lines += [f"{safe(slot.name)} = in_{slot.gate}[step]" for slot in program.slots if slot.column < 0]
    roots = [*(p.vector for p in program.products if p.computed), *program.new_states]
    printer = Printer("torch", roots, like=states[0])
    for stage in range(1, program.stages + 1):
        for k in program.stage_products(stage):
            lines += _product(program, k, printer)
    body, results = printer.emit(program.new_states)
    lines += [*body, *(f"new_{s} = {text}" for s, text in zip(states, results, strict=True))]
    if masked:
        lines += ["if live is not None:", "    at = live[step].unsqueeze(1)"]
        lines += [f"    new_{s} = torch.where(at, new_{s}, old_{s})" for s in states]
    lines += [f"{s} = new_{s}" for s in states]
    if masked:
        lines += ["if live is not None:", "    at = live[step].unsqueeze(1)"]
        lines += [f"    seq_{s}.append(torch.where(at, {s}, 0.0))" for s in states]
        lines += ["else:"] + [f"    seq_{s}.append({s})" for s in states]
    else:
        lines += [f"seq_{s}.append({s})" for s in states]
    return lines


def _product(program: Program, k: int, printer: Printer) -> list[str]:
    """The product, and the slots that it completes."""
    product = program.products[k]
    lines, (vector,) = printer.emit([product.vector])
    if product.reduces:
        (slot,) = (slot for slot in program.slots if slot.column in product.columns)
        of_units = f"({vector}).{product.reduces}(1, keepdim=True)"
        return [*lines, f"{safe(slot.name)} = {of_units}.expand_as({safe(program.cell.states[0])})"]
    columns = range(product.first, product.first + len(product.gates))
    added = f"x_{k}[step]" if _summed(program, product) else f"bias_{k}"
    lines.append(f"sum_{k} = torch.addmm({added}, {vector}, weight_{k})")
    n = len(columns)
    if n > 1:
        lines.append(f"part_{k} = torch.unsafe_chunk(sum_{k}, {n}, 1)")
    for slot in program.slots:
        if slot.column in columns:
            r = f"part_{k}[{slot.column - product.first}]" if n > 1 else f"sum_{k}"
            if slot.gate >= 0 and not _summed(program, product):
                r = f"in_{slot.gate}[step] + {r}"
            lines.append(f"{safe(slot.name)} = {r}")
    return lines
