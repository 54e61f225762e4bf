"""Tensors over gRPC."""
