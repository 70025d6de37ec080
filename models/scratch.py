"""Recurrent networks from scratch, as two tutorials teach them: one Python loop, one line an equation.

They are what the benchmark calls eager, and they judge the cells from outside: nothing here uses a cell or a driver.
convert.py brings their weights to and from the names that torch.nn gives them.

Sources: P. Esposito, Building an LSTM by hand on PyTorch (2020): NaiveLSTM, FusedLSTM. A. Zhang et al., Dive into Deep
Learning, chapter 9 (edition 2.0 beta): D2LLSTM, D2LGRU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn, sigmoid, tanh

Device = torch.device | str | None
Dtype = torch.dtype | None
Three = tuple[Tensor, Tensor, Tensor]  # a gate's input weights (I, H), recurrent weights (H, H) and bias (H,)


class NaiveLSTM(nn.Module):
    """LSTM with eight matrix products a step. U_* (I, H) multiply the input, V_* (H, H) the state; gates i, f, c, o.

    Source: P. Esposito, Building an LSTM by hand on PyTorch (2020), class NaiveCustomLSTM.

    Args:
        input_size: I.
        hidden_size: H. All parameters start uniform in ±1/√H.
    """

    def __init__(self, input_size: int, hidden_size: int, device: Device = None, dtype: Dtype = None):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        sizes = input_size, hidden_size, 1 / math.sqrt(hidden_size), device, dtype
        self.U_i, self.V_i, self.b_i = _three_uniform(*sizes)
        self.U_f, self.V_f, self.b_f = _three_uniform(*sizes)
        self.U_c, self.V_c, self.b_c = _three_uniform(*sizes)
        self.U_o, self.V_o, self.b_o = _three_uniform(*sizes)

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, I) and states (h, c), (B, H) each, zero if not given -> h of every step (B, T, H), last (h, c).

        Raises:
            ValueError: x has another shape.
        """
        _check_input(x, "(B, T, I)", 1, self.input_size)
        h, c = _zeros(x, x.shape[0], self.hidden_size) if states is None else states
        hidden = []
        for t in range(x.shape[1]):
            x_t = x[:, t]
            i = sigmoid(x_t @ self.U_i + h @ self.V_i + self.b_i)
            f = sigmoid(x_t @ self.U_f + h @ self.V_f + self.b_f)
            g = tanh(x_t @ self.U_c + h @ self.V_c + self.b_c)
            o = sigmoid(x_t @ self.U_o + h @ self.V_o + self.b_o)
            c = f * c + i * g
            h = o * tanh(c)
            hidden.append(h)
        return torch.stack(hidden, dim=1), (h, c)

    def gate_parts(self) -> list[Three]:
        """Each gate's part of the weights, in torch's order i, f, g, o."""
        return [
            (self.U_i, self.V_i, self.b_i),
            (self.U_f, self.V_f, self.b_f),
            (self.U_c, self.V_c, self.b_c),
            (self.U_o, self.V_o, self.b_o),
        ]


class FusedLSTM(nn.Module):
    """LSTM with two matrix products a step. W (I, 4H), U (H, 4H), bias (4H,); gates i, f, g, o.

    Source: P. Esposito, Building an LSTM by hand on PyTorch (2020), class CustomLSTM.

    Args:
        input_size: I.
        hidden_size: H. All parameters start uniform in ±1/√H.
        peephole: the article's own variant: U multiplies c in place of h, the candidate is a sigmoid and sees x alone,
            and the output is tanh(o c). The columns of U that belong to g then have no effect. What the field calls
            peepholes, with diagonal weights, is the cell peephole_lstm.
    """

    def __init__(
        self, input_size: int, hidden_size: int, peephole: bool = False, device: Device = None, dtype: Dtype = None
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.peephole = input_size, hidden_size, peephole
        bound = 1 / math.sqrt(hidden_size)
        self.W = _uniform((input_size, 4 * hidden_size), bound, device, dtype)
        self.U = _uniform((hidden_size, 4 * hidden_size), bound, device, dtype)
        self.bias = _uniform((4 * hidden_size,), bound, device, dtype)

    def forward(self, x: Tensor, states: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, I) and states (h, c), (B, H) each, zero if not given -> h of every step (B, T, H), last (h, c).

        Raises:
            ValueError: x has another shape.
        """
        _check_input(x, "(B, T, I)", 1, self.input_size)
        H = self.hidden_size
        h, c = _zeros(x, x.shape[0], H) if states is None else states
        hidden = []
        for t in range(x.shape[1]):
            x_t = x[:, t]
            gates = x_t @ self.W + (c if self.peephole else h) @ self.U + self.bias
            i = sigmoid(gates[:, :H])
            f = sigmoid(gates[:, H : 2 * H])
            o = sigmoid(gates[:, 3 * H :])
            if self.peephole:
                # The article multiplies x by all of W a second time and keeps a quarter; so does its baseline.
                c = f * c + i * sigmoid(x_t @ self.W + self.bias)[:, 2 * H : 3 * H]
                h = tanh(o * c)
            else:
                c = f * c + i * tanh(gates[:, 2 * H : 3 * H])
                h = o * tanh(c)
            hidden.append(h)
        return torch.stack(hidden, dim=1), (h, c)

    def gate_parts(self) -> list[Three]:
        """Each gate's part of the weights, in torch's order i, f, g, o: views, so writing in place writes to them."""
        return list(zip(self.W.chunk(4, dim=1), self.U.chunk(4, dim=1), self.bias.chunk(4), strict=True))


class D2LLSTM(nn.Module):
    """LSTM with an output layer, as the book writes it. W_x* (V, H), W_h* (H, H), b_* (H,); gates i, f, o, c.

    Source: A. Zhang et al., Dive into Deep Learning, Long Short-Term Memory (edition 2.0 beta, section 9.2).

    Args:
        num_inputs: V, the vocabulary where inputs are one-hot.
        num_hiddens: H. Weights start from N(0, 0.01²), biases from zero.
        num_outputs: O, values a step of the output layer; None for none.
    """

    def __init__(
        self,
        num_inputs: int,
        num_hiddens: int,
        num_outputs: int | None = None,
        device: Device = None,
        dtype: Dtype = None,
    ):
        super().__init__()
        self.num_inputs, self.num_hiddens, self.num_outputs = num_inputs, num_hiddens, num_outputs
        sizes = num_inputs, num_hiddens, device, dtype
        self.W_xi, self.W_hi, self.b_i = _three_normal(*sizes)
        self.W_xf, self.W_hf, self.b_f = _three_normal(*sizes)
        self.W_xo, self.W_ho, self.b_o = _three_normal(*sizes)
        self.W_xc, self.W_hc, self.b_c = _three_normal(*sizes)
        if num_outputs is not None:
            self.W_hq = _normal((num_hiddens, num_outputs), device, dtype)
            self.b_q = nn.Parameter(torch.zeros(num_outputs, device=device, dtype=dtype))

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None):
        """inputs (T, B, V) and state (H, C), (B, H) each -> outputs (T * B, O), last state.

        Without an output layer the hidden states (T, B, H) take the place of the outputs.

        Raises:
            ValueError: inputs have another shape.
        """
        _check_input(inputs, "(T, B, I)", 0, self.num_inputs)
        H, C = _zeros(inputs, inputs.shape[1], self.num_hiddens) if state is None else state
        outputs = []
        for X in inputs:
            i = sigmoid(X @ self.W_xi + H @ self.W_hi + self.b_i)
            f = sigmoid(X @ self.W_xf + H @ self.W_hf + self.b_f)
            o = sigmoid(X @ self.W_xo + H @ self.W_ho + self.b_o)
            candidate = tanh(X @ self.W_xc + H @ self.W_hc + self.b_c)
            C = f * C + i * candidate
            H = o * tanh(C)
            outputs.append(H if self.num_outputs is None else H @ self.W_hq + self.b_q)
        return torch.stack(outputs) if self.num_outputs is None else torch.cat(outputs), (H, C)

    def gate_parts(self) -> list[Three]:
        """Each gate's part of the weights, in torch's order i, f, g, o."""
        return [
            (self.W_xi, self.W_hi, self.b_i),
            (self.W_xf, self.W_hf, self.b_f),
            (self.W_xc, self.W_hc, self.b_c),
            (self.W_xo, self.W_ho, self.b_o),
        ]


class D2LGRU(nn.Module):
    """GRU with an output layer, as the book writes it: the reset gate acts before the product, unlike torch.nn.GRU's.

    W_x* (V, H), W_h* (H, H), b_* (H,); gates z, r and the candidate h.

    Source: A. Zhang et al., Dive into Deep Learning, Gated Recurrent Units (edition 2.0 beta, section 9.1).

    Args:
        num_inputs: V, the vocabulary where inputs are one-hot.
        num_hiddens: H. Weights start from N(0, 0.01²), biases from zero.
        num_outputs: O, values a step of the output layer; None for none.
    """

    def __init__(
        self,
        num_inputs: int,
        num_hiddens: int,
        num_outputs: int | None = None,
        device: Device = None,
        dtype: Dtype = None,
    ):
        super().__init__()
        self.num_inputs, self.num_hiddens, self.num_outputs = num_inputs, num_hiddens, num_outputs
        sizes = num_inputs, num_hiddens, device, dtype
        self.W_xz, self.W_hz, self.b_z = _three_normal(*sizes)
        self.W_xr, self.W_hr, self.b_r = _three_normal(*sizes)
        self.W_xh, self.W_hh, self.b_h = _three_normal(*sizes)
        if num_outputs is not None:
            self.W_hq = _normal((num_hiddens, num_outputs), device, dtype)
            self.b_q = nn.Parameter(torch.zeros(num_outputs, device=device, dtype=dtype))

    def forward(self, inputs: Tensor, state: tuple[Tensor] | None = None):
        """inputs (T, B, V) and state (H,), (B, H) -> outputs (T * B, O), last state.

        Without an output layer the hidden states (T, B, H) take the place of the outputs.

        Raises:
            ValueError: inputs have another shape.
        """
        _check_input(inputs, "(T, B, I)", 0, self.num_inputs)
        (H,) = _zeros(inputs, inputs.shape[1], self.num_hiddens)[:1] if state is None else state
        outputs = []
        for X in inputs:
            z = sigmoid(X @ self.W_xz + H @ self.W_hz + self.b_z)
            r = sigmoid(X @ self.W_xr + H @ self.W_hr + self.b_r)
            candidate = tanh(X @ self.W_xh + (r * H) @ self.W_hh + self.b_h)
            H = z * H + (1 - z) * candidate
            outputs.append(H if self.num_outputs is None else H @ self.W_hq + self.b_q)
        return torch.stack(outputs) if self.num_outputs is None else torch.cat(outputs), (H,)

    def gate_parts(self) -> list[Three]:
        """Each gate's part of the weights, in torch's order r, z, n."""
        return [(self.W_xr, self.W_hr, self.b_r), (self.W_xz, self.W_hz, self.b_z), (self.W_xh, self.W_hh, self.b_h)]


def _uniform(shape: tuple[int, ...], bound: float, device: Device, dtype: Dtype) -> Tensor:
    return nn.Parameter(torch.empty(shape, device=device, dtype=dtype).uniform_(-bound, bound))


def _normal(shape: tuple[int, ...], device: Device, dtype: Dtype) -> Tensor:
    return nn.Parameter(torch.randn(shape, device=device, dtype=dtype) * 0.01)


def _three_uniform(I: int, H: int, bound: float, device: Device, dtype: Dtype) -> Three:
    U, V, b = (_uniform(shape, bound, device, dtype) for shape in ((I, H), (H, H), (H,)))
    return U, V, b


def _three_normal(I: int, H: int, device: Device, dtype: Dtype) -> Three:
    zeros = nn.Parameter(torch.zeros(H, device=device, dtype=dtype))
    return _normal((I, H), device, dtype), _normal((H, H), device, dtype), zeros


def _zeros(x: Tensor, B: int, H: int) -> tuple[Tensor, Tensor]:
    return x.new_zeros(B, H), x.new_zeros(B, H)


def _check_input(x: Tensor, layout: str, time: int, size: int) -> None:
    if x.dim() != 3 or x.shape[2] != size or x.shape[time] == 0:
        raise ValueError(f"x must have shape {layout} with I = {size} and T > 0. Got {tuple(x.shape)}.")
