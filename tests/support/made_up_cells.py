"""Cells that only tests know: each asks the road for something that no shipped cell does."""

from torch import exp, log, relu, sigmoid, sqrt, tanh

from gatefuse import cell


@cell(gates="a")
def indrnn(x, R, h, *, u):
    """No product at all: h' = relu(x + u h) (S. Li et al. 2018, arXiv:1803.04831)"""
    return relu(x.a + u * h)


@cell(gates="m i f o g")
def multiplicative_lstm(x, R, h, c):
    """A first product feeds a second (B. Krause et al. 2016, arXiv:1609.07959), with one R for both"""
    m = x.m * R.m(h)
    i, f, o, g = x.i + R.i(m), x.f + R.f(m), x.o + R.o(m), x.g + R.g(m)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return tanh(c) * sigmoid(o), c


@cell(gates="a b")
def computed_first(x, R, h, *, p):
    """The first product already multiplies a computed vector, which sees x"""
    return tanh(x.a + R.a(p * h + 0.1 * x.b))


@cell(gates="a b c")
def three_stages(x, R, h):
    """Three products, one after the other, and two vectors in the first stage"""
    a = sigmoid(x.a + R.a(h))
    b = tanh(x.b + R.b(a * h))
    return tanh(x.c * R.c(b * a)) + 0.5 * h


@cell(gates="a b", init={"h": 0.25, "n": 1.0})
def warm_start(x, R, h, n):
    """States that do not start from zero, and operators that the shipped cells leave out"""
    a = x + R(h)
    n = 0.9 * n + exp(-a.b.abs().clamp(max=3.0)) / sqrt(1.0 + a.b**2)
    return tanh(a.a) / (1.0 + log(1.0 + n)), n


@cell(gates="a b")
def two_vectors(x, R, h, c):
    """Two states multiplied in one stage, and gate b's x unused"""
    c = 0.5 * c + 0.5 * tanh(R.b(c))
    return tanh(x.a + R.a(h) + c), c


@cell(gates="a b")
def mixed_stage(x, R, h, *, p):
    """One stage multiplies a state as it is and a vector computed from it"""
    return 0.5 * h + tanh(x.a + R.a(h) + R.b(p * h))


@cell(gates="a")
def centered(x, R, h):
    """A mean of what a product gives, and one of what is apart from it"""
    a = x.a + R.a(h)
    a = a - a.mean(-1, keepdim=True)
    return tanh(a * ((a * a).mean(-1, keepdim=True) + 1e-3).rsqrt())


@cell(gates="a b:x")
def competing(x, R, h, c, *, p):
    """Means beside a product of the same stage, of a state as it is and of x, and the number of units"""
    share = sigmoid(x.b) / sigmoid(x.b).sum(-1, keepdim=True)
    c = 0.5 * c + p * (h - h.mean(-1, keepdim=True)) / (1 + h.var(-1, keepdim=True))
    return tanh(x.a + R.a(h) + share + c), c


@cell(gates="a b")
def attending(x, R, h, c):
    """A softmax over units, of which some tie, between two products, and the largest of its weights"""
    a = (x.a + R.a(h)).clamp(-0.3, 0.3)
    e = exp(a - a.amax(-1, keepdim=True))
    s = e / e.sum(-1, keepdim=True)
    return tanh(x.b + R.b(s * h) + 0.3 * (a * s).amax(-1, keepdim=True)), 0.5 * c + s * a.amax(-1, keepdim=True)


@cell(gates="a b")
def asking_again(x, R, h, c):
    """One gate's weights in three products, of two stages"""
    c = 0.5 * c + tanh(R.b(c) + R.b(h))
    return tanh(x.a + R.a(h) + 0.5 * R.a(c) * sigmoid(R.b(h * c))), c


@cell(gates="a:x")
def without_weights(x, R, h):
    """A mean, and no product at all"""
    return tanh(x.a + 0.5 * h - h.mean(-1, keepdim=True))


ALL = (
    *(indrnn, multiplicative_lstm, computed_first, three_stages, warm_start, two_vectors, mixed_stage),
    *(centered, competing, attending, asking_again, without_weights),
)
