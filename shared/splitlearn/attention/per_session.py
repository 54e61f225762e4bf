"""Attention of one session of a step by torch's operations, where the backend has no kernel for it.

Shapes: t rows of the session, N rows that it then holds, H heads, K heads of keys, d head dimension.
"""

import torch
from torch.nn import functional

from splitlearn.attention.params import AttentionParams


def attend(
    query_HTd: torch.Tensor,
    keys_KNd: torch.Tensor,
    values_KNd: torch.Tensor,
    bias_TN: torch.Tensor | None,
    params: AttentionParams,
) -> torch.Tensor:
    """[H, t, d].

    Args:
        bias_TN: added to the scores. None: several rows attend causally, a single one to all.
    """
    if params.expand is not None:
        keys_KNd, values_KNd = (expanded[0] for expanded in params.expand(keys_KNd[None], values_KNd[None]))
    if params.softcap is None and params.sinks is None:
        return _sdpa(query_HTd, keys_KNd, values_KNd, bias_TN, params.scaling)
    return _explicit(query_HTd, keys_KNd, values_KNd, bias_TN, params)


def _sdpa(
    query_HTd: torch.Tensor,
    keys_KNd: torch.Tensor,
    values_KNd: torch.Tensor,
    bias_TN: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    heads, count, _ = query_HTd.shape
    shared = heads // keys_KNd.shape[0]
    if count == 1 and shared > 1 and bias_TN is None:
        # heads that share keys become rows of one head: keys are not repeated
        query_HTd = query_HTd.view(keys_KNd.shape[0], shared, -1)
    output = functional.scaled_dot_product_attention(
        query_HTd[None],
        keys_KNd[None],
        values_KNd[None],
        attn_mask=bias_TN,
        is_causal=bias_TN is None and count > 1,
        scale=scaling,
        enable_gqa=query_HTd.shape[0] != keys_KNd.shape[0],
    )
    return output.view(heads, count, -1)


def _explicit(
    query_HTd: torch.Tensor,
    keys_KNd: torch.Tensor,
    values_KNd: torch.Tensor,
    bias_TN: torch.Tensor | None,
    params: AttentionParams,
) -> torch.Tensor:
    """With softcap or sinks, which torch's fused attention does not have."""
    heads, count, width = query_HTd.shape
    shared = heads // keys_KNd.shape[0]
    query_KSTd = query_HTd.reshape(-1, shared * count, width)
    scores_KSTN = torch.matmul(query_KSTd, keys_KNd.transpose(1, 2)) * (
        width**-0.5 if params.scaling is None else params.scaling
    )
    scores_HTN = scores_KSTN.view(heads, count, -1)
    if params.softcap is not None:
        scores_HTN = torch.tanh(scores_HTN / params.softcap) * params.softcap
    if bias_TN is not None:
        scores_HTN = scores_HTN + bias_TN
    if params.sinks is not None:
        sinks_HT1 = params.sinks.reshape(-1, 1, 1).expand(-1, count, 1).to(scores_HTN.dtype)
        scores_HTN = torch.cat([scores_HTN, sinks_HT1], dim=-1)
    weights_HTN = torch.softmax(scores_HTN, dim=-1, dtype=torch.float32).to(query_HTd.dtype)
    if params.sinks is not None:
        weights_HTN = weights_HTN[..., :-1]
    weights_KSTN = weights_HTN.reshape(-1, shared * count, weights_HTN.shape[-1])
    return torch.matmul(weights_KSTN, values_KNd).view(heads, count, -1)
