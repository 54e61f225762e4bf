"""The stages of a distillation between two whole models: the blocks one after another, then the head."""
