"""A small language model over a cell, trained by characters on Python's own documentation, writes after a prefix.

`python -m gatefuse.models.language train` does the same with checkpoints, any text, and The Time Machine.
"""

import torch

from gatefuse.models.language.corpus import prepare, python_topics
from gatefuse.models.language.model import generate
from gatefuse.models.language.training import Settings, Trainer

corpus = prepare(python_topics(), kind="char", max_tokens=3000)
trainer = Trainer(corpus, Settings(network="gru_reset_first", hidden=64, batch=16, steps=20, lr=2.0))
for _ in range(20):
    point = trainer.epoch()
    if point.epoch % 5 == 0:
        print(f"epoch {point.epoch}: perplexity {point.perplexity:.1f}, {point.tokens_per_second:.0f} tokens/s")

model = trainer.model.eval()
print("the likeliest:", generate(model, corpus.vocabulary, "the name ", 30))
drawn = torch.Generator().manual_seed(0)
print("drawn:", generate(model, corpus.vocabulary, "the name ", 30, temperature=0.8, generator=drawn))
