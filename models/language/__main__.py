"""The command line of the language model: train, generate, measure, report.

Whatever a person can get wrong ends in a message and exit code 2, and what was trained stays in the checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

from gatefuse.models.language import checkpoint as checkpoints
from gatefuse.models.language.corpus import announce, find_text, prepare
from gatefuse.models.language.model import (
    check_network,
    generate,
    network_names,
    split_prefix,
    stream,
    unknown_tokens,
)
from gatefuse.models.language.progress import Progress
from gatefuse.models.language.text import KINDS, ORDERS, UNKNOWN, Vocabulary, join
from gatefuse.models.language.training import Point, Settings, Trainer, check_seed
from gatefuse.models.layers.arguments import check_driver

NAME = "gatefuse.models.language"
DEFAULTS = Settings()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Exits with 2 if something given can't be used, with 130 if it was interrupted."""
    found = _parser().parse_args(arguments)
    try:
        found.run(found)
    except BrokenPipeError:  # as `| head` does; what is left must not be flushed into it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not _is_lack_of_memory(error):
            raise
        said = str(error).partition("\n")[0]
        print(
            f"{NAME}: memory must hold the model and a batch; try a lower --hidden or --batch. {said}", file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=NAME, description="A language model over any recurrent network.")
    commands = parser.add_subparsers(required=True)
    defaults = argparse.ArgumentDefaultsHelpFormatter

    train = commands.add_parser(
        "train", help="train a model, or go on where a run was stopped", formatter_class=defaults
    )
    train.set_defaults(run=_train)
    _text(train)
    train.add_argument("--tokens", choices=KINDS, default="char")
    train.add_argument("--max-tokens", type=int, default=10_000, metavar="N", help="from its beginning; -1 for all")
    train.add_argument("--min-freq", type=int, default=0, metavar="N", help="rarer tokens become <unk>")
    train.add_argument("--network", default=DEFAULTS.network, help=f"one of {', '.join(network_names())}")
    train.add_argument("--hidden", type=int, default=DEFAULTS.hidden, metavar="H", help="units")
    train.add_argument("--layers", type=int, default=DEFAULTS.layers, metavar="L")
    train.add_argument("--embedding", type=int, default=0, metavar="I", help="features of a token; 0 for one-hot")
    train.add_argument("--batch", type=int, default=DEFAULTS.batch, metavar="B", help="sequences, over all processes")
    train.add_argument("--steps", type=int, default=DEFAULTS.steps, metavar="T", help="of a sequence")
    train.add_argument("--lr", type=float, default=DEFAULTS.lr, help="learning rate")
    train.add_argument("--clip", type=float, default=DEFAULTS.clip, help="the largest norm of the gradients")
    train.add_argument("--order", choices=list(ORDERS), default=DEFAULTS.order, help="of the sequences")
    train.add_argument("--seed", type=int, default=DEFAULTS.seed)
    train.add_argument("--driver", default=DEFAULTS.driver, help="who runs the time loop")
    train.add_argument("--device", default=None, help="default: a GPU where there is one")
    train.add_argument("--epochs", type=int, default=500, metavar="N", help="of the run, those done before included")
    train.add_argument(
        "--checkpoint", type=Path, default=Path("language.pt"), metavar="FILE", help="written after each epoch"
    )
    train.add_argument("--prefix", default="time traveller", help="what the trained model is shown with")

    write = commands.add_parser("generate", help="let a trained model write", formatter_class=defaults)
    write.set_defaults(run=_generate)
    write.add_argument("--checkpoint", type=Path, default=Path("language.pt"), metavar="FILE")
    write.add_argument("--prefix", default="time traveller")
    write.add_argument("--count", type=int, default=50, metavar="N", help="tokens to write")
    write.add_argument(
        "--temperature", type=float, default=0.0, help="0: the likeliest token each time; else tokens are drawn"
    )
    write.add_argument("--seed", type=int, default=0, help="of what is drawn")

    measure = commands.add_parser("measure", help="train the networks of the report", formatter_class=defaults)
    measure.set_defaults(run=_measure)
    _text(measure)
    measure.add_argument("--epochs", type=int, default=500, metavar="N", help="of the networks over characters")
    measure.add_argument("--word-epochs", type=int, default=80, metavar="N")
    measure.add_argument("--seconds", type=float, default=math.inf, help="of processors, after which to stop")
    measure.add_argument("--speed", action="store_true", help="tokens a second alone; perplexities stay")
    report = commands.add_parser("report", help="write the report of a measurement anew", formatter_class=defaults)
    report.set_defaults(run=_report)
    for command in (measure, report):
        command.add_argument("--reports", type=Path, default=Path("reports/language"), metavar="DIR")
    return parser


def _text(parser: argparse.ArgumentParser) -> None:
    what = "a file, or time-machine, python or auto: the first of these two that can be had. A file and python ask no "
    what += "network; it is said before the network is asked, and in a terminal one may say no. "
    what += "Letters of any alphabet are kept, in lower case; all else between them becomes a blank"
    parser.add_argument("--text", default="auto", metavar="FILE", help=what)


def _train(given: argparse.Namespace) -> None:
    if given.epochs < 1:
        raise ValueError(f"epochs must be at least 1. Got {given.epochs}.")
    check_network(given.network)  # before the text is sought
    check_driver(given.driver)
    device = _connect(given.device)
    first = not dist.is_initialized() or dist.get_rank() == 0
    names = ("network", "hidden", "layers", "embedding", "batch", "steps", "lr", "clip", "order", "seed", "driver")
    settings = Settings(**{name: getattr(given, name) for name in names})
    prefix = split_prefix(given.prefix, given.tokens)  # before anything takes long
    corpus = prepare(find_text(given.text, _allow), given.tokens, given.max_tokens, given.min_freq)
    if first:
        all_ = "" if len(corpus.tokens) >= corpus.total else "; --max-tokens -1 trains on all"
        print(f"text: {corpus.text.name}, {corpus.size}, vocabulary of {len(corpus.vocabulary)}{all_}", flush=True)
    trainer = Trainer(corpus, settings, device)
    path: Path = given.checkpoint
    # Before it is looked at, so that nobody else trains on from it meanwhile.
    with checkpoints.claim(path) if first else nullcontext():
        if path.exists():
            checkpoints.resume(trainer, checkpoints.load(path), path)
            if first:
                print(f"{path}: goes on after epoch {len(trainer.curve)}", flush=True)
        if first:
            _say_read(given.prefix, prefix, corpus.vocabulary)
        _run(trainer, given, first)
    if first:
        print(_ending(trainer.curve[-1]))
        trainer.model.eval()
        print(generate(trainer.model, corpus.vocabulary, given.prefix, 50, corpus.kind))
    if dist.is_initialized():
        dist.barrier()  # a process that leaves while another still talks takes the other's call down with it


def _run(trainer: Trainer, given: argparse.Namespace, first: bool) -> None:
    """The epochs that are left; the first process writes the checkpoint after each."""
    with Progress(len(trainer.curve), given.epochs, quiet=not first) as progress:
        while len(trainer.curve) < given.epochs:
            progress.show(_epoch(trainer))
            if first:
                checkpoints.save(given.checkpoint, trainer)


def _epoch(trainer: Trainer) -> Point:
    try:
        return trainer.epoch()
    except RuntimeError as error:
        if trainer.settings.driver == "auto" or _is_lack_of_memory(error):
            raise
        raise ValueError(f"driver must be one that can run this. {error}") from None


def _ending(point: Point) -> str:
    speed = f"{point.tokens_per_second:.0f} tokens/s"
    return f"epoch {point.epoch}: perplexity {point.perplexity:.3f}, {speed}"


def _connect(device: str | None) -> torch.device:
    """This process's device; one that torchrun started meets the others first."""
    launched = "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and launched:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # which meta has not
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"device must be one that torch has here. Got {device}: {said}") from None
    if launched:
        if found.type == "cuda":
            torch.cuda.set_device(found)
        # Whose functions take the group of this moment as default. Imported later, as DistributedDataParallel does, it
        # would hold the group to the end, and a thread of gloo's that meets a Python that is ending aborts the process
        # (pytorch/pytorch#190489).
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
    return found


def _generate(given: argparse.Namespace) -> None:
    if not given.checkpoint.exists():
        raise ValueError(
            "checkpoint must be a file that train wrote: train a model first, or name another with --checkpoint. "
            f"Got {given.checkpoint}, which isn't there."
        )
    found = checkpoints.load(given.checkpoint)
    tokens = split_prefix(given.prefix, found.kind)
    check_seed(given.seed)
    _say_read(given.prefix, tokens, found.vocabulary)
    generator = torch.Generator().manual_seed(given.seed)
    new = stream(found.model(), found.vocabulary, tokens, given.count, given.temperature, generator)
    known = found.vocabulary.decode(found.vocabulary.encode(tokens))
    print(join(known, found.kind), end="", flush=True)
    for token in new:  # as it is written
        print(token if found.kind == "char" else f" {token}", end="", flush=True)
    print()


def _say_read(prefix: str, tokens: list[str], vocabulary: Vocabulary) -> None:
    """Name what of the prefix the model doesn't read as it is written."""
    said = {
        "of the prefix, read in lower case": [letter for letter in dict.fromkeys(prefix) if letter != letter.lower()],
        f"of the prefix, read as {UNKNOWN}, since the vocabulary lacks them": unknown_tokens(tokens, vocabulary),
    }
    for how, which in said.items():
        if which:
            shown = [token if token.isprintable() and token.strip() else repr(token) for token in which]
            print(f"{NAME}: {how}: {' '.join(shown)}", file=sys.stderr)


def _allow(what: str) -> bool:
    """Say what the network is to be asked for; a person at a terminal may forbid it."""
    announce(f"{what}. --text FILE and --text python ask no network.")
    if "LOCAL_RANK" in os.environ or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print("Ask for it? [Y/n] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    return answer.endswith("\n") and answer.strip().lower() in ("", "y", "yes")


def _measure(given: argparse.Namespace) -> None:
    from gatefuse.bench.language.report import measure, measure_speed, report
    from gatefuse.bench.language.runs import check

    text = find_text(given.text, _allow)
    # Before the speeds of the last measurement are written over.
    sizes = check(text, given.epochs, given.word_epochs)
    print(f"text: {text.name}, {' and '.join(sizes)}", flush=True)
    measure_speed(given.reports, text)
    if not given.speed:
        measure(given.reports, text, given.epochs, given.word_epochs, given.seconds)
    print(report(given.reports))


def _report(given: argparse.Namespace) -> None:
    from gatefuse.bench.language.report import report

    print(report(given.reports))


if __name__ == "__main__":
    main()
