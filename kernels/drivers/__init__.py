"""Drivers run the time loop of a cell. All have one form, so that a new driver touches no cell and no layer:

    name: str
    refusal(request: Request) -> str     why it can't run that here, in words; "" where it can
    run(task: Task) -> Outcome           one direction of one layer over one batch

A driver that can run both directions of a layer at once also has

    both_refusal(request: Request) -> str            why it can't in this call, which it doesn't refuse
    run_both(tasks: tuple[Task, Task]) -> Outcome    sequences (T, B, 2 * H) and finals (B, 2 * H)

and one whose backward reads the very sequences that it returned, where there are no lengths, has

    keeps = True                                     a layer then hands out copies

eager is the oracle, script a TorchScript loop, aten a Python loop of generated torch operators with a backward of its
own, llvm machine code for all steps on a CPU, step one product and one fused kernel a step, block one kernel for all
steps, grid one kernel of many programs that share the weights, vendor torch's own.
"""

from __future__ import annotations

from types import ModuleType

DRIVERS = ("eager", "script", "aten", "llvm", "step", "block", "grid", "vendor")


def driver(name: str) -> ModuleType:
    """The driver of that name; loaded when first asked for.

    Raises:
        ValueError: there is none.
    """
    # Plain imports: torch.compile traces through here, and can't look into importlib.
    if name == "eager":
        from gatefuse.kernels.drivers import eager

        return eager
    if name == "script":
        from gatefuse.kernels.drivers import script

        return script
    if name == "aten":
        from gatefuse.kernels.drivers import aten

        return aten
    if name == "llvm":
        from gatefuse.kernels.drivers import llvm

        return llvm
    if name == "step":
        from gatefuse.kernels.drivers import step

        return step
    if name == "block":
        from gatefuse.kernels.drivers import block

        return block
    if name == "grid":
        from gatefuse.kernels.drivers import grid

        return grid
    if name == "vendor":
        from gatefuse.kernels.drivers import vendor

        return vendor
    raise ValueError(f"driver must be one of auto, {', '.join(DRIVERS)}. Got {name!r}.")
