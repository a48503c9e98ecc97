"""GGUF files for tests: the pocket model written as llama.cpp's converter would write it."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from ppo_lib.models.loading import resolve

NAMES = {  # of a Llama block, here and there
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def paired(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp keeps the two halves that a rotation mixes side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(file: Path, architecture: str = "llama", bits: gguf.GGMLQuantizationType | None = None) -> Path:
    """``pocket:sft`` as a GGUF file, its blocks rounded where ``bits`` says so."""
    folder = Path(resolve("pocket:sft"))
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, words = model.config, json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = words["model"]["vocab"] | {word["content"]: word["id"] for word in words["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {word["content"] for word in words["added_tokens"] if word["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in words["model"]["merges"]])
    writer.add_eos_token_id(model.generation_config.eos_token_id)
    writer.add_bos_token_id(config.bos_token_id or model.generation_config.eos_token_id)
    writer.add_add_bos_token(False)
    for name, weight in model.state_dict().items():
        if name == "model.embed_tokens.weight":
            there = "token_embd.weight"
        elif name == "model.norm.weight":
            there = "output_norm.weight"
        elif name == "lm_head.weight":
            if config.tie_word_embeddings:
                continue
            there = "output.weight"
        else:
            _, _, block, *rest, _ = name.split(".")
            there = f"blk.{block}.{NAMES['.'.join(rest)]}.weight"
        if "attn_q" in there or "attn_k" in there:
            weight = paired(weight, config.num_attention_heads if "attn_q" in there else config.num_key_value_heads)
        numbers = weight.float().numpy()
        if bits is not None and numbers.ndim == 2 and numbers.shape[1] % 32 == 0:
            writer.add_tensor(there, gguf.quants.quantize(numbers, bits), raw_dtype=bits)
        else:
            writer.add_tensor(there, np.ascontiguousarray(numbers))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
