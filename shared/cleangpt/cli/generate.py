"""`cleangpt generate`: continues a prompt with a model from a folder, and streams the text."""

from pathlib import Path
from typing import Annotated

import typer

from cleangpt.errors import UsageError

Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        help="0 takes the likeliest token. Default: 1 with --top-k, --top-p, --min-p or --typical-p, else 0.",
    ),
]
TopP = Annotated[float | None, typer.Option("--top-p", help="Draw from the fewest likeliest with that share together.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Draw from those with that share of the likeliest one's.")]
TypicalP = Annotated[
    float | None, typer.Option("--typical-p", help="Draw from those as surprising as expected, with that share.")
]
Slide = Annotated[
    bool,
    typer.Option(
        "--slide/--no-slide",
        help="Go on from the last half of the context where it is full; --no-slide ends the text there.",
    ),
]


def generate(
    folder: Annotated[Path, typer.Argument(help="What `cleangpt train`, `cleangpt distill` or `convert` wrote.")],
    prompt: Annotated[str, typer.Option("--prompt", help="The text to continue.")],
    max_new_tokens: Annotated[int, typer.Option("--max-tokens", "--max-new-tokens", help="Most tokens to add.")] = 50,
    temperature: Temperature = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw from the k likeliest.")] = None,
    top_p: TopP = None,
    min_p: MinP = None,
    typical_p: TypicalP = None,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1: tokens that were there become less likely.")
    ] = 1.0,
    num_beams: Annotated[int, typer.Option("--num-beams", help="Texts to search side by side.")] = 1,
    seed: Annotated[int | None, typer.Option("--seed", help="Makes a temperature above 0 repeatable.")] = None,
    slide: Slide = True,
    chat: Annotated[bool, typer.Option("--chat", help="Ask the prompt through the model's chat template.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda ... Default: the CPU.")] = None,
) -> None:
    """Writes the prompt and what follows; with beams, all of it at the end. Notes go to stderr."""
    # import torch and transformers late, so that --help is quick
    from transformers import TextStreamer
    from transformers.utils.logging import disable_progress_bar

    from cleangpt.evaluation.model_folder import load_model
    from cleangpt.inference.generation import continuations, sliding_note
    from cleangpt.inference.sampling import Sampling
    from cleangpt.model.device import device_of

    place = None if device is None else device_of(device)
    sampling = Sampling(
        max_new_tokens, temperature, top_k, top_p, min_p, typical_p, repetition_penalty, num_beams, seed, slide
    )
    disable_progress_bar()
    model, tokenizer = load_model(folder)
    if chat and not tokenizer.chat_template:
        raise UsageError(f"{folder} has no chat template; leave --chat out to have the prompt continued")
    text = prompt
    if chat:
        asked = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    streamer = None
    if num_beams == 1:
        streamer = TextStreamer(tokenizer, skip_prompt=chat, skip_special_tokens=True)
    [found] = continuations(model, tokenizer, [text], place, sampling, streamer=streamer)
    if streamer is None:
        typer.echo(found.text)
    if note := sliding_note([found], model):
        typer.echo(f"note: {note}; --no-slide ends the text there", err=True)
