"""Attention of many sessions in one step: what layers ask for, what backends offer. Names no backend."""
