"""The linear probe is the logistic regression of scikit-learn, on the hidden state that predicts the answer."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tasks.evaluate.calibration.ranking import auroc
from tasks.evaluate.linear_probe import PENALTY, fit_logistic, last_states, logits_of
from tests.tiny import llama


def test_it_is_scikit_learns_regression():
    states = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 5, 0.1, 1, 2, 1]) + 3
    known = (states[:, 0] + 0.3 * states[:, 1] + torch.randn(200, generator=torch.Generator().manual_seed(1)) > 4).tolist()
    scaled = StandardScaler().fit_transform(states.double().numpy())
    theirs = LogisticRegression(C=1 / (PENALTY * 200), tol=1e-10, max_iter=1000).fit(scaled, known).decision_function(scaled)
    assert logits_of(states, fit_logistic(states, known)) == pytest.approx(theirs.tolist(), abs=0.02)


def test_what_can_be_read_is_found_and_noise_is_not():
    draw = torch.Generator().manual_seed(2)
    states, test = torch.randn(400, 8, generator=draw), torch.randn(400, 8, generator=draw)
    readable, noise = (states[:, 3] > 0).tolist(), (torch.randn(400, generator=draw) > 0).tolist()
    truth = (test[:, 3] > 0).tolist()
    assert auroc(logits_of(test, fit_logistic(states, readable)), truth) > 0.95
    assert 0.35 < auroc(logits_of(test, fit_logistic(states, noise)), truth) < 0.65


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_states_are_those_at_the_last_token_of_each_prompt_alone(batch_size):
    model, prompts = llama(), [[4 + n, *range(5, 5 + n * 3 % 7)] for n in range(8)]
    found = last_states(model, prompts, batch_size)
    for prompt, state in zip(prompts, found, strict=True):
        with torch.no_grad():
            alone = model.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        assert torch.allclose(state, alone, atol=1e-4)
