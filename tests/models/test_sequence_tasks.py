"""The kinds of sequence work: each small model learns its task, whose answers are known."""

import pytest
import torch

from gatefuse.models import sequence_tasks as tasks
from gatefuse.models.sequence import (
    END,
    IGNORED,
    EncoderDecoder,
    ManyToMany,
    ManyToOne,
    OneToMany,
    OneToOne,
    accuracy,
    fit,
)
from gatefuse.models.sequence_tasks import DIGITS

KINDS = {
    "one to one": (lambda: OneToOne("lstm", 2, 16, 2), tasks.same_sign, 300, 0.95),
    "one to many": (lambda: OneToMany("gru", DIGITS, 32, DIGITS, 6), tasks.counting, 150, 0.99),
    "many to one": (lambda: ManyToOne("gru_reset_first", DIGITS, 16, 2), tasks.majority, 200, 0.95),
    "many to many in step": (lambda: ManyToMany("lstm", 1, 24, 2), tasks.peaks, 900, 0.97),
    "many to many of another length": (lambda: EncoderDecoder("gru", 9, 48, 7), tasks.spelling, 600, 0.98),
}


@pytest.mark.parametrize("kind", KINDS)
def test_learns_its_task(kind):
    make, task, steps, least = KINDS[kind]
    torch.manual_seed(0)
    model = make()
    before = accuracy(model, task)
    losses = fit(model, task, steps)
    assert len(losses) == steps
    assert before < 0.7
    assert accuracy(model, task) >= least


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    make, task, _, _ = KINDS[kind]
    model = make()
    inputs, target = task(5, torch.Generator().manual_seed(0))
    assert model(*inputs).shape[:-1] == target.shape
    again, _ = task(5, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(inputs, again, strict=True))


def test_the_default_device_changes_nothing():
    """Examples are drawn on their generator's device, and a model learns on its own."""
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        for make, task, _, _ in KINDS.values():
            inputs, target = task(5, torch.Generator("cpu").manual_seed(0))
            assert {given.device.type for given in (*inputs, target)} == {"cpu"}
            model = make().to_empty(device="cpu")
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, generator=torch.Generator("cpu").manual_seed(0))
            assert len(fit(model, task, 2, B=3)) == 2
            accuracy(model, task, B=3)
    finally:
        torch.set_default_device(before)


def test_answers_of_the_tasks():
    draw = torch.Generator().manual_seed(0)
    (x,), target = tasks.same_sign(4, draw)
    assert target.tolist() == [int(a * b > 0) for a, b in x.tolist()]
    (x,), target = tasks.counting(3, draw)
    assert target[:3].T.tolist() == [[d, (d + 1) % DIGITS, (d + 2) % DIGITS] for d in x.argmax(1).tolist()]
    (words, lengths), target = tasks.majority(20, draw)
    texts = [words[:n, b].tolist() for b, n in enumerate(lengths.tolist())]
    assert target.tolist() == [int(text.count(1) > text.count(2)) for text in texts]
    (x,), target = tasks.peaks(1, draw)
    x, tags = x.flatten().tolist(), target.flatten().tolist()
    assert tags[1:-1] == [int(a < b > c) for a, b, c in zip(x, x[1:], x[2:], strict=False)]
    assert tags[0] == tags[-1] == 0
    (digits, lengths, before), target = tasks.spelling(6, draw)
    for b, n in enumerate(lengths.tolist()):
        spelled = [letter for d in digits[:n, b].tolist() for letter in (1 + d // 3, 4 + d % 3)]
        assert target[:, b].tolist() == [*spelled, END, *[IGNORED] * (6 - 2 * n)]
        assert before[: 2 * n + 1, b].tolist() == [END, *spelled]


def test_an_encoder_decoder_writes_without_being_told():
    """What it answers doesn't depend on the tokens that it learns with."""
    inputs, _ = tasks.spelling(5, torch.Generator().manual_seed(0))
    model = EncoderDecoder("gru", 9, 8, 7)
    digits, lengths, before = inputs
    assert torch.equal(model.answer(digits, lengths, before), model.answer(digits, lengths, before.flip(1)))


@pytest.mark.parametrize("training", [True, False])
def test_accuracy_leaves_the_mode(training):
    model = OneToOne("lstm", 2, 4, 2).train(training)
    accuracy(model, tasks.same_sign, B=3)
    assert model.training is training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneToMany("gru", DIGITS, 4, DIGITS, 0), r"T must be at least 1\. Got 0\."),
        (lambda: OneToOne("nothing", 2, 4, 2), r"cell must be one of .* Got 'nothing'\."),
        (lambda: fit(OneToOne("lstm", 2, 4, 2), tasks.same_sign, 0), r"steps must be at least 1\. Got 0\."),
        (lambda: fit(OneToOne("lstm", 2, 4, 2), tasks.same_sign, 1, B=0), r"B must be at least 1\. Got 0\."),
        (
            lambda: fit(OneToOne("elman_relu", 2, 4, 2), tasks.same_sign, 20, lr=1e30),
            r"loss must stay finite\. Got \w+ at step \d+ with lr 1e\+30\.",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
