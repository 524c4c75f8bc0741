"""The loss of a micro-batch: cross-entropy of the response tokens, whose logits alone are computed."""

from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from mathsft.training.batches import MicroBatch


def summed_loss(model: PreTrainedModel, micro_batch: MicroBatch) -> Tensor:
    """Return the cross-entropy in nats summed over the micro-batch's response tokens, EOS included; a scalar in fp32."""
    hidden_BTH: Tensor = model.model(input_ids=micro_batch.ids_BT, use_cache=False).last_hidden_state
    # Logits are a vocabulary wide and most tokens belong to prompts: the head sees only what predicts a response.
    hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, micro_batch.predictors_N)
    logits_NV: Tensor = model.lm_head(hidden_NH)
    return cross_entropy(logits_NV.float(), micro_batch.targets_N, reduction="sum")
