"""Measures how well a tokenizer fits a text, and prunes what the text does not need from tokenizer and model."""

from cleangpt.analysis.embedding_cut import cut_embedding
from cleangpt.analysis.pruning import PrunedTokenizer, prune_tokenizer
from cleangpt.analysis.usage import TokenUsage, as_json, as_table, count_usage

__all__ = [
    "PrunedTokenizer",
    "TokenUsage",
    "as_json",
    "as_table",
    "count_usage",
    "cut_embedding",
    "prune_tokenizer",
]
