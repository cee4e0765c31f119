"""The study of attention: given weights are used, the adversary's measure is a divergence, the arms differ as said."""

from __future__ import annotations

import math

import pytest
import torch

import kdutils as kd
from kdutils.explain.attention import attention_weights
from kdutils.studies import attention as study
from kdutils.studies.vit import SIZE
from tests.common import fashion, same_bits, weights


def vit(seed: int = 0) -> torch.nn.Module:
    with kd.seeded(seed):
        return kd.models.vit(**SIZE).eval()


def some(n: int) -> kd.data.ImageSet:
    return fashion()[1].subset(n, seed=0)


def test_a_networks_own_attention_given_back_changes_nothing() -> None:
    model, images = vit(), some(4).tensors()[0]
    with torch.no_grad():
        own = model(images)
        with study.given_attention(model, lambda x: attention_weights(vit(), x)):
            torch.testing.assert_close(model(images), own)
        with study.given_attention(model, lambda x: attention_weights(vit(1), x)):
            assert (model(images) - own).abs().max() > 1e-3
        assert torch.equal(model(images), own)  # the hooks are gone


def test_given_attention_is_what_every_block_uses() -> None:
    model, images = vit(), some(3).tensors()[0]
    pattern = torch.rand(SIZE["depth"], 1, 1, 50, 50).softmax(-1)
    paths = [f"blocks.{i}.softmax" for i in range(SIZE["depth"])]
    with study.given_attention(model, lambda _: pattern), kd.layers.read(model, paths) as seen:
        model(images)
    for i, path in enumerate(paths):
        assert torch.equal(seen[path], pattern[i].expand(3, SIZE["heads"], -1, -1))


def test_the_divergence_is_zero_for_equal_rows_and_ln_2_for_rows_that_share_nothing() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]])
    torch.testing.assert_close(study.divergence(rows, rows), torch.zeros(2))
    torch.testing.assert_close(study.divergence(rows[:1], rows[1:]), torch.tensor([math.log(2)]))
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    middle = (p + q) / 2
    slow = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    torch.testing.assert_close(study.divergence(p, q), slow[None])
    torch.testing.assert_close(study.divergence(p, q), study.divergence(q, p))


def test_heads_that_change_places_are_no_divergence() -> None:
    one = torch.rand(2, 3, 5, 5).softmax(-1)
    torch.testing.assert_close(study.closeness(one, one.flip(1)), torch.tensor(math.log(2)))


def test_only_queries_and_keys_are_drawn_anew() -> None:
    base = vit()
    before = {name: value.clone() for name, value in weights(base).items()}
    other = study.disturbed(base, seed=3)
    assert same_bits(before, weights(base))
    for name, value in weights(other).items():
        if ".qkv." in name:
            rows = 2 * SIZE["dim"]
            assert not torch.equal(value[:rows], before[name][:rows])
            assert torch.equal(value[rows:], before[name][rows:])
        else:
            assert torch.equal(value, before[name])


@pytest.mark.filterwarnings("ignore:the teacher is right on")  # it is untrained, and only its attention matters here
def test_the_adversary_moves_attention_away() -> None:
    base, train, test = vit(), some(256), some(64)
    control, adversary = (study.adversary(base, train, weight, seed=1, epochs=1) for weight in (0.0, 1.0))
    far, near = (study.beside(base, model, test, maps=32)["divergence"] for model in (adversary, control))
    assert far > 2 * near


def test_a_network_beside_itself() -> None:
    found = study.beside(vit(), vit(), some(64), maps=16)
    assert found["agreement"] == 1
    assert found["accuracy"] == found["base_accuracy"]
    for name, value in (("kl", 0), ("divergence", 0), ("rollout", 1)):
        assert found[name] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("arm", study.PROBE_ARMS)
def test_a_probe_is_trained_and_evaluated_with_the_weights_of_its_arm(arm: str) -> None:
    base, train, test = vit(), some(64), some(32)
    model, given = study.probe(base, train, arm, seed=1, epochs=1)
    with given, kd.layers.read(model, ["blocks.0.softmax"]) as seen:
        assert math.isfinite(kd.evaluate(model, test)["nll"])
    found = seen["blocks.0.softmax"]
    same_for_all = torch.allclose(found[0], found[1], atol=1e-7)
    assert same_for_all == (arm in ("mean", "uniform"))
    if arm == "uniform":
        torch.testing.assert_close(found, torch.full_like(found, 1 / 50))
    if arm == "own image":
        torch.testing.assert_close(found, attention_weights(base, test.tensors()[0])[0])
