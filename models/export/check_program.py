"""The program beside an object that runs it on recorded input and compares what it gives with the layer's output."""

from __future__ import annotations

from torch import Tensor

from gatefuse.models.export.header import Face
from gatefuse.models.export.recording import Recording

_TEXT = """\
/* Runs {name} on recorded input: 0 where it gives what the model gave, 1 where it doesn't. */
#include "{name}.h"
#include <stdio.h>

#define STEPS ({steps})
#define APART ({apart}) /* steps that are run one by one, before the others are run at once */

static const {kind} x[STEPS * {upper}_INPUTS] = {{
{x}
}};

static const float expected[STEPS * {upper}_OUTPUTS] = {{
{y}
}};

static const float allowed = {allowed}; /* of the largest value */

static float distance(float a, float b)
{{
    return (a < b) ? (b - a) : (a - b);
}}

int main(void)
{{
    static {name}_state state;
    static float y[STEPS * {upper}_OUTPUTS];
    float largest = 0.0f;
    float error = 0.0f;
    int k;

    {name}_reset(&state);
    for (k = 0; k < APART; k++) {{
        {call}{name}_step(&state, &x[k * {upper}_INPUTS], &y[k * {upper}_OUTPUTS]);
    }}
    {call}{name}_run(&state, STEPS - APART, &x[APART * {upper}_INPUTS], &y[APART * {upper}_OUTPUTS]);

    for (k = 0; k < (STEPS * {upper}_OUTPUTS); k++) {{
        const float size = distance(expected[k], 0.0f);
        const float off = distance(y[k], expected[k]);
        largest = (size > largest) ? size : largest;
        /* what is no number is as far off as can be */
        error = (off <= error) ? error : ((off == off) ? off : 3.0e38f);
    }}
    printf("{name}: %d steps, an error of %.2e where %.2e is allowed\\n", STEPS, (double)error,
           (double)(allowed * largest));
    return (error <= (allowed * largest)) ? 0 : 1;
}}
"""
_APART = 5


def check_program(face: Face, record: Recording) -> str:
    """The text of <name>_check.c."""
    return _TEXT.format(
        name=face.name,
        upper=face.name.upper(),
        kind=face.input_type,
        steps=len(record.x),
        apart=_APART,
        x=_numbers(record.x),
        y=_numbers(record.y.float()),
        allowed=_number(record.allowed),
        call="(void)" if face.entries else "",
    )


def _numbers(values: Tensor) -> str:
    """A row of the tensor in lines of their own."""
    rows = []
    for row in values.tolist():
        texts = [str(v) if isinstance(v, int) else _number(v) for v in row]
        rows += ["    " + ", ".join(texts[k : k + 6]) + "," for k in range(0, len(texts), 6)]
    return "\n".join(rows).rstrip(",")


def _number(value: float) -> str:
    return f"{value:.9e}f"
