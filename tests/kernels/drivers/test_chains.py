"""States carried on through thousands of calls, never detached: the graph of all of them is freed at once."""

import subprocess
import sys

import pytest

# on a thread's stack of 1 MiB, which stands for 8 times as many calls on the usual one
CODE = """
import gc, threading
import torch, gatefuse

def work():
    layer, state = {layer}, None
    x = torch.randn(2, 1, 4)
    for _ in range({calls}):
        output, state = layer(x, state)
    del output, state
    gc.collect()

threading.stack_size(1 << 20)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print("freed")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        "gatefuse.LSTM(4, 4)", "gatefuse.GRU(4, 4)", "gatefuse.RNN(4, 4)", "gatefuse.Recurrent('lstm', 4, 4)",
        "gatefuse.Recurrent('gru', 4, 4)", "gatefuse.Recurrent('slstm', 4, 4)",
        "gatefuse.GRU(4, 4, driver='eager')", "gatefuse.GRU(4, 4, driver='aten')",
    ],
)  # fmt: skip
def test_a_long_chain_of_states_is_freed(layer):
    # torch's own loops are a node or two a call, the equations one an operator
    program = CODE.format(layer=layer, calls=1000 if "slstm" in layer else 4000)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "freed\n"), found.stderr
