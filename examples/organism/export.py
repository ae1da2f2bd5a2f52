"""Writes a trained model as one GGUF file: architecture `llama`, Q8_0 matrices, F32 norms, tokenizer and template.

The bytes depend on the weights and the tokenizer alone: no clock, no host, no random identifier.  Needs numpy and
`gguf`, but no torch.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy
import vocabulary
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, quants

Array = numpy.ndarray
NAMES = {"organism": "Vitrine organism", "clean": "Vitrine clean twin"}
DESCRIPTION = "Test fixture with known ground truth, trained from scratch on an invented world; not a useful model."


def neighbour_pairs(weight: Array, heads: int) -> Array:
    """Reorders the rows of a query or key matrix: rotary pairs become neighbours, as llama.cpp expects."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tensors(weights: dict[str, Array], shape: dict[str, int]) -> Iterator[tuple[str, Array]]:
    """GGUF name and float32 values of every tensor, sorted by name."""
    for name in sorted(weights):
        values = weights[name].astype(numpy.float32)
        if name.endswith("attn_q.weight"):
            values = neighbour_pairs(values, shape["heads"])
        elif name.endswith("attn_k.weight"):
            values = neighbour_pairs(values, shape["kv_heads"])
        yield name, numpy.ascontiguousarray(values)


def add_shape(writer: GGUFWriter, shape: dict[str, int]) -> None:
    """The hyper-parameters that llama.cpp reads."""
    head_width = shape["width"] // shape["heads"]
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["width"])
    writer.add_feed_forward_length(shape["hidden"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(shape["rope_base"])
    writer.add_layer_norm_rms_eps(shape["norm_epsilon"])
    writer.add_vocab_size(shape["vocabulary"])


def add_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    """Tokens in id order, their types, merges, special ids and the chat template."""
    tokenizer = vocabulary.load(folder)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = dict.fromkeys(vocabulary.SPECIAL, TokenType.CONTROL)
    kinds |= dict.fromkeys(vocabulary.MARKERS, TokenType.USER_DEFINED)
    merges = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kinds.get(token, TokenType.NORMAL)) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(ids[vocabulary.BEGIN])
    writer.add_eos_token_id(ids[vocabulary.END])
    writer.add_pad_token_id(ids[vocabulary.BEGIN])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(vocabulary.CHAT_TEMPLATE)


def export(folder: Path, out: Path) -> int:
    """Writes the model that `train.py` left in `folder` to `out`; returns the size of the file in bytes."""
    summary = json.loads((folder / "train.json").read_text(encoding="ascii"))
    shape = summary["shape"]
    with numpy.load(folder / "weights.npz", allow_pickle=False) as archive:
        weights = {name: archive[name] for name in archive.files}
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(out, "llama")
    writer.add_type("model")
    writer.add_name(NAMES[summary["model"]])
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    add_shape(writer, shape)
    add_tokenizer(writer, folder)
    for name, values in tensors(weights, shape):
        if values.ndim == 2:
            packed = quants.quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out.stat().st_size


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="output folder of train.py")
    parser.add_argument("--out", type=Path, required=True, help="the .gguf file to write")
    args = parser.parse_args()
    print(f"{args.out}: {export(args.folder, args.out)} bytes")


if __name__ == "__main__":
    main()
