"""From equations to device code: cells, tracing, code generation, drivers, the plan."""
