"""From rows to files: reports of sweeps, their index, and the README's part."""
