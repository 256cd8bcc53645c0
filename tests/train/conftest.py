"""A tiny random Llama folder, as a stand-in for any model that a user has on disk."""

import pytest
import torch

torch.set_num_threads(1)


def make_llama(folder, **shape):
    """Writes a model folder: random weights, a token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {"<eos>": 0, **{c: i + 1 for i, c in enumerate(sorted(alphabet))}}
    byte = Tokenizer(models.BPE(vocabulary, []))
    byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=byte, eos_token="<eos>").save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    size |= {"num_key_value_heads": 2, "max_position_embeddings": 128} | shape
    config = LlamaConfig(vocab_size=len(vocabulary), bos_token_id=None, eos_token_id=0, **size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def wide_llama_folder(tmp_path_factory):
    """Heads of 32 and room for 512 tokens, as vLLM wants them; the output head shares the embedding's weights."""
    shape = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True}
    return make_llama(tmp_path_factory.mktemp("wide_llama"), **shape)
