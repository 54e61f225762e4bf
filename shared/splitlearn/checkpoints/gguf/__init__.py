"""GGUF files, as llama.cpp writes them: one file with metadata, vocabulary and tensors."""
