"""The stages of a distillation between two whole models: the blocks one by one, then the head."""
