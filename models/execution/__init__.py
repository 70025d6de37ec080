"""What a layer's forward comes down to: a call, run now or as operators in a compiled or exported program."""
