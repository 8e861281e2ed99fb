"""Before a run: can this node take part with what it holds? Asked once, so that no round is spent to find out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import rsfed
from node.catalogue import Catalogue
from node.training.bounds import check_epochs, classes_of_sums
from node.training.holdout import hold_out
from node.training.patches import training_items
from rsfed.config import NodeConfig, NodeTraining
from rsfed.errors import TrainingError, UsageError
from rsfed.hashing.closed_form import LEAST_PATCHES
from rsfed.hashing.objectives import check_objective
from rsfed.hashing.plan import TrainingPlan
from rsfed.home import Home
from rsfed.privacy.policy import policy
from rsfed.raster.item import Item
from rsfed.raster.modality import modality
from rsfed.trust.manifest import Nomenclature
from rsfed.trust.release_store import ReleaseStore


def check_software(asked: object) -> None:
    """Refuse to train with software that may compute otherwise: another version but for the last digit.

    Args:
        asked: Version of the coordinator's software, as the task says it.

    Raises:
        TrainingError: OTHER_SOFTWARE.
    """
    if _line(str(asked)) != _line(rsfed.__version__):
        raise TrainingError(
            f"the coordinator runs rsfed {str(asked)[:20]}, this node {rsfed.__version__}; update the older one",
            reason="OTHER_SOFTWARE",
        )


def check_archive(home: Home, plan: TrainingPlan, config: NodeConfig) -> list[Item]:
    """Refuse a plan that this archive cannot train; return the patches that it would train on.

    Args:
        home: The node's home.
        plan: What the coordinator asks for.
        config: What the operator allows.

    Raises:
        TrainingError: OTHER_BANDS, OTHER_CLASSES, NO_LABELLED_PATCHES, NOTHING_TO_COMPARE (one class only),
            TOO_MANY_CLASSES, PLAN_LIMITS; TRUNK_MISSING or TRUNK_UNFIT where the network stands on a trunk.
        ConfigError: EXTRA_MISSING, the trunk needs onnxruntime.
    """
    _check_bands(home, plan)
    release = ReleaseStore(home.releases).current()
    if release is not None:
        check_classes(release.manifest.nomenclature, plan.nomenclature)
    limits, floor = config.training, policy(config.policy.level).floor
    held_out = hold_out(home, plan, floor).ids if limits.calibration else frozenset()
    items, _ = training_items(home, plan, limits.memory_mib, without=held_out)
    if not items:
        raise TrainingError(
            "this archive has no patch to train on; ingest images, and map their labels to classes of the federation",
            reason="NO_LABELLED_PATCHES",
        )
    classes = {label for item in items for label in item.labels} & set(plan.class_ids)
    alone = plan.objective.needs_labels and len(plan.class_ids) < 2
    if alone or len(classes) < plan.objective.needs_classes or len(items) < 2 - plan.objective.needs_labels:
        raise TrainingError("all labelled patches of this archive have the same class", reason="NOTHING_TO_COMPARE")
    check_objective(plan.objective, plan.class_ids, plan.bits, seed=plan.seed)
    check_epochs(plan, limits, len(items))
    return items


def check_sums(items: Sequence[Item], plan: TrainingPlan, limits: NodeTraining, *, floor: int) -> None:
    """Refuse the sums that a run will ask for, as it would be when they are asked for.

    Args:
        items: The patches that this archive trains on.
        plan: What the coordinator asks for.
        limits: What the operator allows.
        floor: Distinct acquisitions that class statistics must come from, as the policy's level says.

    Raises:
        TrainingError: SUMS_REFUSED, TOO_FEW_ACQUISITIONS, or TOO_FEW_PATCHES.
    """
    labels = np.array([np.isin(plan.class_ids, item.labels) for item in items])
    told = classes_of_sums(plan, limits, labels, [item.acquisition for item in items], floor=floor)
    if (patches := int((labels & told).any(axis=1).sum())) < LEAST_PATCHES:
        raise TrainingError(f"sums would come from {patches} patches", reason="TOO_FEW_PATCHES")


def check_classes(own: Nomenclature, asked: Nomenclature) -> None:
    """Refuse classes that mean something else here: own labels were mapped to those of the own release.

    A newer version may add, rename and drop classes, since ids keep their meaning over the versions of a nomenclature.

    Raises:
        TrainingError: OTHER_CLASSES.
    """
    names = {entry.id: entry.name for entry in own.classes}
    renamed = any(names.get(entry.id, entry.name) != entry.name for entry in asked.classes)
    if own.name == asked.name:
        differ = asked.version < own.version or (asked.version == own.version and bool(names) and own != asked)
    else:
        differ = renamed
    if differ:
        raise TrainingError(
            f"this node's labels mean classes of {own.name} {own.version}, the run trains {asked.name} {asked.version}",
            reason="OTHER_CLASSES",
        )


def _check_bands(home: Home, plan: TrainingPlan) -> None:
    with Catalogue(home) as catalogue:
        held = catalogue.modalities()
    try:
        known = set(modality(plan.modality).bands)
    except UsageError:
        known = set()
    asked = {band for group in plan.input.groups for band in group.bands}
    if not asked <= known or (held and plan.modality not in held):
        raise TrainingError(f"the run trains {plan.modality}; this archive has other bands", reason="OTHER_BANDS")


def _line(version: str) -> list[str]:
    return version.split(".")[:2]
