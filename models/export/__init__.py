"""A trained model as an object file with a C header: layers, code, what is written beside it."""
