"""Between text and token ids: reading tokenizers, chat templates, the vocabulary, incremental text."""
