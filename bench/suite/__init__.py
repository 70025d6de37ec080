"""What is measured, as data: shapes, sweeps and contenders."""
