"""What people import: layers for any cell, torch.nn's layers, and the networks written from scratch."""
