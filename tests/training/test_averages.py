"""The average of the weights, against its formula and torch's."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import plain
from skiplab.training import averages
from tiny import network, optimizer_of, train


def test_without_decay_the_average_is_the_model():
    model = network(0, torch.contiguous_format)
    average = averages.Average(model, decay=0.0, warmup=False)
    assert average.model is model
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    average.update(0)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "memory_format",
    [torch.contiguous_format, torch.channels_last],
    ids=["contiguous", "channels_last"],
)
def test_the_average_is_its_formula(memory_format: torch.memory_format):
    model = network(0, memory_format)
    optimizer = optimizer_of("sgd", model)
    average = averages.Average(model, decay=0.7, warmup=False)
    expected = {key: tensor.double() for key, tensor in model.state_dict().items()}
    for step in range(5):
        train(model, optimizer, range(step, step + 1))
        average.update(step)
        for key, tensor in model.state_dict().items():
            expected[key] = 0.7 * expected[key] + 0.3 * tensor.double()
    state = average.model.state_dict()
    assert state.keys() == expected.keys()
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    statistics = [key for key in state if key.endswith(("running_mean", "running_var"))]
    assert counters
    assert statistics
    for key, tensor in state.items():
        if key in counters:
            # A count is copied, not averaged.
            assert tensor.item() == 5
        else:
            torch.testing.assert_close(tensor, expected[key].float(), rtol=1e-5, atol=1e-6)
            assert tensor.stride() == model.state_dict()[key].stride()
    for key in statistics:
        assert not torch.equal(state[key], model.state_dict()[key])


@pytest.mark.parametrize(("decay", "num_steps"), [(0.999, 40), (0.5, 40), (0.15, 5)])
def test_a_warmed_up_average_is_torchs_with_the_decays_of_tensorflow(decay: float, num_steps: int):
    """The share of the initial weights is checked, too.

    It is what the average holds of a network that starts at 1 and is 0 ever after.
    """
    model = nn.Linear(1, 1, bias=False)
    # n counts updates, the copy included.
    oracle = AveragedModel(
        model, avg_fn=lambda a, w, n: a + (1 - min(decay, n / (9 + n))) * (w - a)
    )
    # The first update takes a copy.
    oracle.update_parameters(model)
    average = averages.Average(model, decay=decay, warmup=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(num_steps):
        with torch.no_grad():
            model.weight.fill_(torch.randn((), generator=generator))
        oracle.update_parameters(model)
        average.update(step)
        torch.testing.assert_close(
            average.model.state_dict()["weight"], oracle.module.weight, rtol=1e-5, atol=1e-6
        )
    with torch.no_grad():
        model.weight.fill_(1.0)
    for warmup in (True, False):
        with torch.no_grad():
            model.weight.fill_(1.0)
        average = averages.Average(model, decay=decay, warmup=warmup)
        with torch.no_grad():
            model.weight.fill_(0.0)
        for step in range(num_steps):
            average.update(step)
        held = average.model.state_dict()["weight"].item()
        assert average.initial_share(num_steps) == pytest.approx(held, rel=1e-4, abs=1e-4)
        assert (average.initial_share(num_steps) > 0.1) == (held > 0.1)


def test_the_average_shares_nothing_with_the_model_and_takes_no_gradient():
    model = plain.shake(network(0, torch.contiguous_format))
    average = averages.Average(model, decay=0.9, warmup=False)
    assert average.model is not model
    before = {key: tensor.clone() for key, tensor in average.model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in average.model.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    average.update(0)
    for key, tensor in average.model.named_parameters():
        torch.testing.assert_close(tensor, before[key] + 0.1, rtol=1e-12, atol=1e-12)
