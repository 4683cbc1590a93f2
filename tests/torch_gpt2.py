"""GPT-2 in PyTorch, with the names of its published weights, and the files that others keep it in.

The reference for weights that come from elsewhere: it is written from GPT-2's definition (Radford
et al. 2019), not from our model, and knows no file of ours.
"""

import json
from collections import OrderedDict

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class Block(nn.Module):
    def __init__(self, C, n_head, bias, activation):
        super().__init__()
        self.n_head, self.activation = n_head, ACTIVATIONS[activation]
        self.ln_1, self.ln_2 = (nn.LayerNorm(C, bias=bias) for _ in range(2))
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(C, 3 * C, bias=bias), "c_proj": nn.Linear(C, C, bias=bias)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(C, 4 * C, bias=bias), "c_proj": nn.Linear(4 * C, C, bias=bias)}
        )

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for part in self.attn["c_attn"](self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn["c_proj"](y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp["c_proj"](self.activation(self.mlp["c_fc"](self.ln_2(x))))


class TorchGPT2(nn.Module):
    """Weights larger than a fresh model's, and biases that are not 0: every path matters."""

    def __init__(
        self, V=256, T=16, n_layer=2, n_head=3, C=12, bias=True, activation="gelu_new", tied=True
    ):
        super().__init__()
        self.sizes = {"vocab_size": V, "block_size": T, "n_layer": n_layer, "n_head": n_head}
        self.sizes["n_embd"], self.bias = C, bias
        self.activation, self.tied = activation, tied
        blocks = [Block(C, n_head, bias, activation) for _ in range(n_layer)]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(V, C),
                "wpe": nn.Embedding(T, C),
                "h": nn.ModuleList(blocks),
                "ln_f": nn.LayerNorm(C, bias=bias),
            }
        )
        self.lm_head = nn.Linear(C, V, bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, std=0.3, generator=generator)

    @torch.no_grad()
    def forward(self, idx):
        t = self.transformer
        x = t["wte"](idx) + t["wpe"](torch.arange(idx.shape[1]))
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))

    def greedy(self, idx, n):
        """`idx` (1, T) with the likeliest token n times appended; T + n within the context."""
        for _ in range(n):
            idx = torch.cat([idx, self(idx)[:, -1:].argmax(-1)], dim=1)
        return idx[0].tolist()

    # ------------------------------------------------------------------------------------- files

    def hugging_face_tensors(self, prefix="transformer.", dtype=torch.float32, buffers=False):
        """By the names of GPT2LMHeadModel, whose Conv1D keeps a matrix as (in, out)."""
        tensors = {}
        for name, p in self.state_dict().items():
            p = p.detach().to(dtype)
            matrix = p.dim() == 2 and ".h." in name
            tensors[name.replace("transformer.", prefix)] = p.T.contiguous() if matrix else p
        if self.tied:
            del tensors["lm_head.weight"]
        T = self.sizes["block_size"]
        for i in range(self.sizes["n_layer"] if buffers else 0):
            tensors[f"{prefix}h.{i}.attn.bias"] = torch.ones(1, 1, T, T).tril()
            tensors[f"{prefix}h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        return tensors

    def hugging_face_config(self, **changes):
        s = self.sizes
        return {
            "model_type": "gpt2", "activation_function": self.activation,
            "n_positions": s["block_size"], "vocab_size": s["vocab_size"],
            "n_layer": s["n_layer"], "n_head": s["n_head"], "n_embd": s["n_embd"],
            "layer_norm_epsilon": 1e-5, "tie_word_embeddings": self.tied, **changes,
        }  # fmt: skip

    def save_hugging_face(self, folder, shards=1, **options):
        folder.mkdir(exist_ok=True)
        tensors = self.hugging_face_tensors(**options)
        (folder / "config.json").write_text(json.dumps(self.hugging_face_config()))
        if shards == 1:
            safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            return
        names = {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = dict(list(tensors.items())[i::shards])
            safetensors.torch.save_file(part, folder / file, {"format": "pt"})
            names |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    def nanogpt_checkpoint(self, compiled=False, dtype=torch.float32):
        """What nanoGPT's train.py saves, after a step."""
        optimizer = torch.optim.AdamW([nn.Parameter(p.detach().clone()) for p in self.parameters()])
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        optimizer.step()
        state = self.state_dict()
        prefix = "_orig_mod." if compiled else ""
        model = OrderedDict((prefix + name, p.to(dtype)) for name, p in state.items())
        model._metadata = state._metadata
        return {
            "model": model, "optimizer": optimizer.state_dict(),
            "model_args": {**self.sizes, "bias": self.bias, "dropout": 0.2},
            "iter_num": 1, "best_val_loss": torch.tensor(2.5),
            "config": {"out_dir": "out", "learning_rate": 1e-3, "compile": compiled, "n": None},
        }  # fmt: skip
