"""The training loop: some steps of one network on one archive's patches."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rsfed.errors import TrainingError
from rsfed.hashing.augment import Augmentation, drop_features
from rsfed.hashing.dataset import PatchSet
from rsfed.hashing.objectives import Objective
from rsfed.hashing.objectives.sampling import Sample

Progress = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all and the loss."""


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a stretch of training did.

    Attributes:
        losses: Loss of each step.
        steps: Number of steps.
        idle_steps: Steps whose batch held nothing to compare, for example patches of one class only; a node where all
            are idle learned nothing of which patches are alike.
        examples: Patches processed, counted at every use and in every view.
        seconds: Wall-clock time.
        peak_memory: Largest resident size of this process so far, in bytes.
    """

    losses: tuple[float, ...]
    steps: int
    idle_steps: int
    examples: int
    seconds: float
    peak_memory: int

    @property
    def loss(self) -> float:
        """Mean loss of the last quarter of the steps."""
        return float(np.mean(self.losses[-max(1, self.steps // 4) :]))

    def refuse_idle(self) -> None:
        """Refuse weights that learned nothing of which patches are alike.

        Raises:
            TrainingError: NOTHING_TO_COMPARE.
        """
        if self.idle_steps == self.steps:
            raise TrainingError(
                "the patches of this archive give this objective nothing to tell apart: all have the same class, no "
                "class has two of them, or there is only one; ingest or map more",
                reason="NOTHING_TO_COMPARE",
            )


def train_steps(  # noqa: PLR0913 - each is one setting of the loop
    model: nn.Module,
    data: PatchSet,
    objective: Objective,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    proximal: float = 0.0,
    sample: Sample | None = None,
    on_progress: Progress = lambda _done, _steps, _loss: None,
) -> TrainReport:
    """Train a network in place with Adam; the same arguments and number of threads give the same weights.

    The optimiser starts afresh: in a federation its moments would belong to weights that were averaged away.

    Args:
        model: Network with sigmoid outputs.
        data: Patches to train on.
        objective: Chooses batches and gives their loss, how many views it takes and the decay rates of Adam.
        steps: Optimiser steps, at least 1.
        batch: Patches of one step, at least 3.
        learning_rate: Step size.
        seed: Seed of batches and augmentation.
        proximal: Weight mu of the term mu/2 * ||w - w_start||^2 that is added to the loss, so that archives that differ
            move less far apart (Li et al., FedProx, MLSys 2020).
        sample: Chooses batches in the objective's place.
        on_progress: Called after each step.

    Raises:
        TrainingError: NO_PATCHES, or DIVERGED (outputs, loss or weights are not finite any more).
    """
    if not len(data):
        raise TrainingError("there is no patch to train on; ingest some first", reason="NO_PATCHES")
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=objective.betas, fused=True)
    start = [weight.detach().clone() for weight in model.parameters()] if proximal else []
    sample = sample or objective.sample
    losses: list[float] = []
    idle = examples = 0
    started = time.perf_counter()
    model.train()
    for step in range(steps):
        chosen = np.tile(sample(data.labels, batch, rng), objective.views)
        inputs = data.batch(chosen)
        if data.augmentable:
            view = Augmentation.draw(len(chosen), rng)
            inputs = tuple(view.apply(patches) for patches in inputs)
        elif objective.views > 1:
            inputs = tuple(drop_features(features, rng) for features in inputs)
        outputs = model(*map(torch.from_numpy, inputs))
        _check_finite(outputs)  # first, because not every loss takes what is no number
        loss = objective.losses(outputs, torch.from_numpy(data.labels[chosen]))
        total = loss.total + proximal / 2 * _distance(model, start) if proximal else loss.total
        _check_finite(total)
        optimiser.zero_grad()
        torch.autograd.backward(total)
        optimiser.step()
        losses.append(loss.total.item())
        idle += not loss.compared
        examples += len(chosen)
        on_progress(step + 1, steps, losses[-1])
    _check_finite(*model.parameters())  # the last step has no loss after it
    return TrainReport(
        losses=tuple(losses),
        steps=steps,
        idle_steps=idle,
        examples=examples,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(),
    )


def _distance(model: nn.Module, start: list[Tensor]) -> Tensor:
    """Return the squared L2 distance of all weights together from where they were."""
    terms = [(weight - was).square().sum() for weight, was in zip(model.parameters(), start, strict=True)]
    return torch.stack(terms).sum()


def _check_finite(*tensors: Tensor) -> None:
    if not all(torch.isfinite(each).all() for each in tensors):
        raise TrainingError(
            "training diverged: the loss is not finite any more; lower training.learning_rate", reason="DIVERGED"
        )


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
