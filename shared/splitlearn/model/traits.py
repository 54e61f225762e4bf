"""Traits of architectures that a cut must respect, read off the config: what cannot be cut, and where not.

Only what the modules themselves do not show is listed here by name; `docs/architectures.md` says what came of each.
"""

from transformers import PretrainedConfig

from splitlearn.hf.config import reuses_keys_and_values

_OWN_STATE = "it keeps what it remembers of a text in a form of its own, and not in a cache that a part could hold"
_TOWER = "it writes sound, several tokens at a time, and not text"
_DRAFTS = "it drafts for another model and reads that model's cache"
_TOKEN_IDS = "its layers take embeddings of the token ids, which must not leave the client"
_EMBEDDING_AGAIN = "its layers read the output of the embedding again, and share one set of weights"
_IN_LOOPS = "it runs its stacks of layers several times in turn, so that a text would cross the cut many times"
_STREAM = "its layers read what all blocks of layers before them made, not only the last"

_CANNOT_BE_CUT = {
    "blt": "it reads bytes in patches of changing length through models of its own",
    "cpmant": "it puts a prompt of its own before the text, so that its cache holds other rows than the session",
    "dory": _IN_LOOPS,
    "gemma3n": _TOKEN_IDS,
    "gemma3n_text": _TOKEN_IDS,
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
    "hrm_text": _IN_LOOPS,
    "inkling2_loop_text": _IN_LOOPS,
    "inkling2_text": _STREAM,
    "minimax": _OWN_STATE,
    "mllama": "layers that only look at images lie between the others",
    "mllama_text_model": "layers that only look at images lie between the others",
    "musicgen": _TOWER,
    "musicgen_melody": _TOWER,
    "openai-gpt": "it keeps no cache, so a session would have to send its whole text again for every token",
    "prophetnet": "it predicts several tokens at once, and goes on with a cache by no more than one row",
    "recurrent_gemma": _OWN_STATE,
    "reformer": _OWN_STATE,
    "roformer": "all of its layers read one table of positions that is stored with the embeddings",
    "rwkv": _OWN_STATE,
    "xlm": _OWN_STATE,
    "xlnet": "it reads a text in permuted order and keeps a memory of its own in place of a cache",
    "xlstm": _OWN_STATE,
    "zaya": "it scales its first rows with weights that belong to no module",
    "zamba": _EMBEDDING_AGAIN,
    "zamba2": _EMBEDDING_AGAIN,
}

# Beyond what the modules show, as `make test-architectures` finds: they change keys and values between their cache and
# their attention, make masks of their own, or count positions in their layers.
_ATTEND_OTHERWISE = {"diffllama", "doge", "gemma4_unified", "jetmoe", "llama4", "llama4_text"}

# Their recurrent layers forget the past when they are given more than one row.
_ONE_ROW_AT_A_TIME = ("falcon_mamba", "jamba", "mamba")


def why_not(config: PretrainedConfig) -> str | None:
    """Why no model of this config can be cut; None if nothing is known against it."""
    text = config.get_text_config(decoder=True)
    for kind in (config.model_type, text.model_type):
        if kind in _CANNOT_BE_CUT:
            return _CANNOT_BE_CUT[kind]
    if getattr(text, "hidden_size_per_layer_input", 0) or getattr(text, "ple_layer_ids", None):
        return _TOKEN_IDS
    if reuses_keys_and_values(config):
        return "its last layers read the keys and values of earlier ones, which stay in another part"
    return None


def why_not_here(config: PretrainedConfig, layers: range) -> str | None:
    """Why a part of the whole model cannot consist of just these layers; None if it can."""
    text = config.get_text_config(decoder=True)
    start = layers.start
    kinds = getattr(text, "mlp_layer_types", None) or ()
    by_id = [i for i, kind in enumerate(kinds) if kind == "hash_moe"]
    if start and any(i in layers for i in by_id):
        return (
            f"layers up to {by_id[-1]} choose their experts by token id, so they must stay with the embeddings; "
            f"cut at {by_id[-1] + 1} or behind"
        )
    indexers = getattr(text, "indexer_types", None) or ()
    if start < len(indexers) and indexers[start] == "shared":
        own = [i for i, kind in enumerate(indexers) if kind != "shared"]
        return f"layer {start} attends to rows that an earlier layer chose; begin a part at one of the layers {own}"
    return None


def attends_otherwise(config: PretrainedConfig) -> bool:
    """Whether a model that takes another attention in place of its own needs more than that, with several sessions."""
    return bool({config.model_type, config.get_text_config(decoder=True).model_type} & _ATTEND_OTHERWISE)


def row_width(config: PretrainedConfig) -> int:
    """Numbers in a row between two layers: the hidden size, times the streams where layers keep several."""
    text = config.get_text_config(decoder=True)
    names = ("hc_mult", "hc_count", "n_streams")
    streams = next((found for name in names if (found := getattr(text, name, None))), 1)
    return int(text.hidden_size) * int(streams)


def takes_one_row_at_a_time(config: PretrainedConfig) -> bool:
    """Whether rows that continue a session must be run one by one to be right."""
    return config.get_text_config(decoder=True).model_type in _ONE_ROW_AT_A_TIME
