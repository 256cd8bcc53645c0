"""Policies from local folders: prompts through a chat template, and refusals."""

import pytest

from curbench.train.policy import as_chat, encode, load_policy

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} ;{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shipped base model as a folder of the user's, with a chat template."""
    out = tmp_path_factory.mktemp("model")
    policy = load_policy(None)
    policy.tokenizer.chat_template = TEMPLATE
    policy.model.save_pretrained(out)
    policy.tokenizer.save_pretrained(out)
    return out


def test_a_prompt_goes_through_the_chat_template_with_the_models_turn_opened(folder):
    policy = load_policy(folder, chat=True, system_prompt="Be brief.")
    text = "system: Be brief. ;user: 1 2 ;assistant:"
    assert as_chat(policy, "1 2") == text
    prompt = encode(policy, ["1 2", "1 2 3"])
    expected = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert prompt.id[0][prompt.mask[0] == 1].tolist() == expected
    assert as_chat(load_policy(folder, chat=True), "1 2") == "user: 1 2 ;assistant:"
    assert as_chat(load_policy(folder), "1 2") == "1 2"


def test_a_folder_that_cannot_be_used_is_refused_in_a_sentence(folder, tmp_path):
    with pytest.raises(ValueError, match="is not a model folder: it has no config.json"):
        load_policy(tmp_path)
    with pytest.raises(ValueError, match="ships no base model; give a local Hugging Face folder"):
        load_policy(None, "zebra")
    load_policy(None).model.save_pretrained(tmp_path)
    load_policy(None).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template; leave chat=true out"):
        load_policy(tmp_path, chat=True)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_policy(tmp_path)
