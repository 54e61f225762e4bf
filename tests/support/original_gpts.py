"""What the original cleanGPT computes, written out in plain torch to compare our models with, and its weights as ours.

Not a model to use: one text at a time, no cache, no dropout, learned positions or ALiBi with a power of two of heads.

Shapes: T rows, D hidden size, H heads, d width of a head, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

N_LAYERS, N_HEADS, WIDTH, VOCABULARY, CONTEXT = 3, 4, 16, 40, 16


def _tensor(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, dtype=torch.float64) * 0.3)


class Affine(nn.Module):
    """A linear layer, or with one size the scale and shift of a LayerNorm."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weight, self.bias = _tensor(*reversed(sizes)), _tensor(sizes[-1])

    def forward(self, rows_TD: Tensor) -> Tensor:
        if self.weight.ndim == 1:
            return functional.layer_norm(rows_TD, self.weight.shape, self.weight, self.bias)
        return rows_TD @ self.weight.T + self.bias


class Layer(nn.Module):
    """What both have: norms, queries and keys side by side, and an MLP."""

    def __init__(self, n_read: int) -> None:
        super().__init__()
        self.read = Affine(WIDTH, n_read * WIDTH)
        self.norm, self.second_norm = Affine(WIDTH), Affine(WIDTH)
        self.up, self.down = Affine(WIDTH, 4 * WIDTH), Affine(4 * WIDTH, WIDTH)

    def mlp(self, rows_TD: Tensor) -> Tensor:
        return self.down(functional.gelu(self.up(rows_TD)))


def by_head(rows_TD: Tensor) -> Tensor:
    return torch.stack(rows_TD.chunk(N_HEADS, dim=-1))


def weights_of(query_TD: Tensor, key_TD: Tensor, bias_HTT: Tensor) -> Tensor:
    """Causal attention weights [H, T, T]."""
    scores_HTT = torch.einsum("hid,hjd->hij", by_head(query_TD), by_head(key_TD)) / (WIDTH / N_HEADS) ** 0.5
    later_TT = torch.ones(scores_HTT.shape[1:], dtype=torch.bool).triu(1)
    return (scores_HTT + bias_HTT).masked_fill(later_TT, -torch.inf).softmax(-1)


class SASPLayer(Layer):
    """x + beta_SA P shaped(n) + beta_FF MLP(n), with or without x, V and P; one of each gain for all heads."""

    def __init__(self, skips: bool, has_values: bool, has_projection: bool) -> None:
        super().__init__(3 if has_values else 2)
        self.skips = skips
        self.project = Affine(WIDTH, WIDTH) if has_projection else None
        self.alpha, self.beta, self.gamma = _tensor(1), _tensor(1), _tensor(1)
        self.beta_SA, self.beta_FF = _tensor(1), _tensor(1)

    def forward(self, x_TD: Tensor) -> Tensor:
        n_TD = self.norm(x_TD)
        query_TD, key_TD, *value_TD = self.read(n_TD).split(WIDTH, dim=-1)
        n_rows = len(x_TD)
        mean_TT = torch.ones(n_rows, n_rows, dtype=x_TD.dtype).tril() / torch.arange(1.0, n_rows + 1)[:, None]
        attention_HTT = weights_of(query_TD, key_TD, torch.zeros(()))
        shaped_HTT = self.alpha * torch.eye(n_rows) + self.beta * attention_HTT - self.gamma * mean_TT
        mixed_TD = torch.cat(list(shaped_HTT @ by_head(value_TD[0] if value_TD else n_TD)), dim=-1)
        written_TD = mixed_TD if self.project is None else self.project(mixed_TD)
        out_TD = self.beta_SA * written_TD + self.beta_FF * self.mlp(n_TD)
        return x_TD + out_TD if self.skips else out_TD


class FactoredLayer(Layer):
    """x_t takes A x_t, and x_e takes the MLP of the sum; nothing weighs heads."""

    def __init__(self, alibi: bool) -> None:
        super().__init__(2)
        self.alibi = alibi

    def forward(self, both_TD: Tensor) -> Tensor:
        token_TD, context_TD = both_TD.chunk(2, dim=-1)
        bias_HTT = torch.zeros(())
        if self.alibi:
            steps_T = torch.arange(len(token_TD), dtype=token_TD.dtype)
            slopes_H = 2.0 ** (-8.0 * torch.arange(1, N_HEADS + 1, dtype=token_TD.dtype) / N_HEADS)
            bias_HTT = slopes_H[:, None, None] * (steps_T[None, :] - steps_T[:, None])
        attention_HTT = weights_of(*self.read(self.norm(token_TD + context_TD)).chunk(2, dim=-1), bias_HTT)
        token_TD = token_TD + torch.cat(list(attention_HTT @ by_head(token_TD)), dim=-1)
        return torch.cat([token_TD, context_TD + self.mlp(self.second_norm(token_TD + context_TD))], dim=-1)


@dataclass(frozen=True)
class Original:
    """Layers between embeddings and a tied head, in float64."""

    layers: list[Layer]
    tokens: nn.Parameter
    positions: nn.Parameter | None
    norm: Affine

    @classmethod
    def of(cls, layers: list[Layer], *, alibi: bool = False) -> "Original":
        positions = None if alibi else _tensor(CONTEXT, WIDTH)
        return cls(layers, _tensor(VOCABULARY, WIDTH), positions, Affine(WIDTH))

    @torch.no_grad()
    def logits(self, ids_T: Tensor) -> Tensor:
        """[T, V]."""
        rows_TD = self.tokens[ids_T]
        if self.positions is not None:
            rows_TD = rows_TD + self.positions[: len(ids_T)]
        if isinstance(self.layers[0], FactoredLayer):
            rows_TD = torch.cat([rows_TD, torch.zeros_like(rows_TD)], dim=-1)
        for layer in self.layers:
            rows_TD = layer(rows_TD)
        if rows_TD.shape[-1] == 2 * WIDTH:
            rows_TD = rows_TD[:, :WIDTH] + rows_TD[:, WIDTH:]
        return self.norm(rows_TD) @ self.tokens.T


@torch.no_grad()
def copy_into(model: PreTrainedModel, original: Original) -> None:
    """Gives our model the original's weights. What ours folds together is multiplied out here."""
    decoder = model.model
    pairs = [(decoder.embed_tokens.weight, original.tokens)]
    if original.positions is not None:
        pairs.append((decoder.embed_positions.weight, original.positions))
    pairs += _affine(decoder.norm, original.norm)
    for ours, theirs in zip(decoder.layers, original.layers, strict=True):
        pairs += [*_affine(ours.mlp.up, theirs.up), *_affine(ours.mlp.down, theirs.down)]
        pairs += _sasp(ours, theirs) if isinstance(theirs, SASPLayer) else _factored(ours, theirs)
    for mine, other in pairs:
        mine.copy_(other.expand_as(mine))


def _affine(ours: nn.Module, theirs: Affine) -> list[tuple[Tensor, Tensor]]:
    return [(ours.weight, theirs.weight), (ours.bias, theirs.bias)]


def _sasp(ours: nn.Module, theirs: SASPLayer) -> list[tuple[Tensor, Tensor]]:
    own = ours.attention
    pairs = [*_affine(ours.norm, theirs.norm), (ours.mlp_gain, theirs.beta_FF)]
    read = [own.query, own.key, own.value][: len(theirs.read.bias) // WIDTH]
    for number, each in enumerate(read):
        rows = slice(number * WIDTH, (number + 1) * WIDTH)
        pairs += [(each.weight, theirs.read.weight[rows]), (each.bias, theirs.read.bias[rows])]
    # beta_SA scales the projection, or where there is none the gains
    scale = theirs.beta_SA
    if theirs.project is not None:
        pairs += [(own.output.weight, scale * theirs.project.weight), (own.output.bias, scale * theirs.project.bias)]
        scale = torch.ones(1)
    return pairs + [(getattr(own, name), scale * getattr(theirs, name)) for name in ("alpha", "beta", "gamma")]


def _factored(ours: nn.Module, theirs: Layer) -> list[tuple[Tensor, Tensor]]:
    norms = _affine(ours.attention_norm, theirs.norm) + _affine(ours.mlp_norm, theirs.second_norm)
    return norms + _affine(ours.attention.query_key, theirs.read)
