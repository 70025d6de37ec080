"""Breaks in torch.compile's graphs: what it leaves to Python runs there as if nothing were compiled.

torch.compile takes a layer whole, or not at all where it refuses one (torch.nn's classes, unless its option allow_rnn
is set) or has compiled it too often. It then tries the functions within, one by one. Of torch's own loops it makes
graphs for one number of steps each, in training some that fail, and none is worth its time.
"""

import torch

# What compiles around this call; None where nothing does. Nothing public says so without bringing a compiler. To be
# asked where torch.compiler.is_compiling() said no, and in that very function: a function of its own would be one that
# the compiler comes to.
compiler_around = torch._C._dynamo.eval_frame.get_eval_frame_callback
