"""Recurrent layers of other packages, and what accelerate makes of them. Nothing here imports a package."""
