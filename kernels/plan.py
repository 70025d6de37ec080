"""Which driver runs a call, and why, in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from gatefuse.kernels.drivers import DRIVERS, Request, driver

# What auto tries, best first. On a CPU torch's own loop is native code. script and, until its barrier has been seen to
# work on hardware, grid are for those who ask for them.
_PREFERENCE = {"cpu": ("vendor", "eager"), "gpu": ("vendor", "block", "step", "eager")}
_WHY = {
    "vendor": "torch has its own compiled loop for this cell",
    "block": "one kernel for all steps, with the recurrent weights on the chip, for a cell that torch has no loop for",
    "step": "one product and one fused kernel a step, for a cell that torch has no loop for",
    "eager": "the Python loop runs everything; driver='script' asks for a TorchScript loop",
}


@dataclass(frozen=True)
class Plan:
    """A driver and the reasons: ``str(plan)`` is a sentence for people.

    Attributes:
        driver: what runs.
        reason: why it was picked.
        refused: every driver that can't run this call, with the reason.
    """

    driver: str
    reason: str
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.driver}: {self.reason}."]
        lines += [f"  not {name}: {why}." for name, why in self.refused.items()]
        return "\n".join(lines)


def choose(request: Request, wanted: str = "auto") -> Plan:
    """The plan for a call.

    Raises:
        ValueError: no driver has the wanted name.
        RuntimeError: the wanted driver can't run this call; the message says why.
    """
    if wanted != "auto":
        if why := driver(wanted).refusal(request):
            raise RuntimeError(f"driver {wanted} can't run this call: {why}.")
        return Plan(wanted, "asked for")
    preference = _PREFERENCE["cpu" if request.device.type == "cpu" else "gpu"]
    refused: dict[str, str] = {}
    for name in preference:
        why = driver(name).refusal(request)
        if not why:
            return Plan(name, _WHY[name], refused)
        refused[name] = why
    raise AssertionError("eager never refuses")


def explain(request: Request, wanted: str = "auto") -> Plan:
    """As choose, and names every driver that can't run this call, also those that auto would not try."""
    plan = choose(request, wanted)
    refused = {name: driver(name).refusal(request) for name in DRIVERS}
    return Plan(plan.driver, plan.reason, {name: why for name, why in refused.items() if why})
