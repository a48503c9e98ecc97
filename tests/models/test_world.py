"""One process is a world in which everything is already shared, joined, whole and in its place."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ppo_lib.models.world import ALONE


def test_alone_every_row_is_ours_and_every_number_is_the_sum(capsys):
    assert (ALONE.rank, ALONE.size, ALONE.parts, ALONE.first, ALONE.device, ALONE.sharded) == (
        0,
        1,
        1,
        True,
        None,
        False,
    )
    rows, tensor = torch.arange(5), torch.ones(2, requires_grad=True)
    assert ALONE.share(rows) is rows
    assert ALONE.largest_share(range(5)) == 5
    assert ALONE.gather([1, 2]) == [1, 2]
    assert ALONE.total(1.5, 2) == (1.5, 2)
    assert ALONE.largest(-1.0) == -1.0
    assert ALONE.any(True)
    assert not ALONE.any(False)
    ALONE.check_share("minibatch", 1)
    ALONE.wait()
    ALONE.add(tensor)
    ALONE.add_gradients([tensor])
    assert tensor.tolist() == [1, 1]
    assert tensor.grad is None
    ALONE.say("once")
    assert capsys.readouterr().out == "once\n"


def test_alone_every_tensor_is_whole_and_a_model_lies_where_it_is_put():
    tensor = torch.ones(2, requires_grad=True)
    assert not ALONE.is_part(tensor)
    own = ALONE.own_part(tensor)
    assert own.data_ptr() == tensor.data_ptr()
    assert not own.requires_grad
    assert ALONE.whole(own, tensor) is own
    assert ALONE.part_of(own, tensor) is own
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
    ALONE.place(model, "meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_a_device_is_prepared_before_a_model_goes_there(monkeypatch):
    """Without that, attention by cuDNN gives NaN gradients on some GPUs."""
    done = []
    monkeypatch.setattr("ppo_lib.models.world.prepare", lambda device: done.append(str(device)))

    class Model:
        def to(self, device):
            done.append("moved")

    ALONE.place(Model(), "cuda")
    assert done == ["cuda", "moved"]
