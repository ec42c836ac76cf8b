"""Rules that are tried: the humility section of a specification file."""

from __future__ import annotations

from pathlib import Path

from driftline.humility.rules import HumilitySpec
from services.backtest.settings import Assignment, assigned
from services.deployments.checking import load_specification
from services.deployments.errors import SpecificationError
from services.deployments.specification import to_document
from services.humility.errors import HumilityError
from streams.specification import DeploymentSpec


def rules_to_try(file: Path, spec: DeploymentSpec) -> HumilitySpec:
    """The rules and guarantees of a file, for a deployment in force.

    Nothing else of the file is tried, so they must fit the features and outcomes in force.

    Raises:
        SpecificationError: The file is refused, or its rules do not fit the deployment in force.
        HumilityError: It is the specification of another deployment, or has no humility section.
    """
    loaded = load_specification(file).to_spec()
    if loaded.deployment_id != spec.deployment_id:
        raise HumilityError(
            f"{file} is the specification of {loaded.deployment_id!r}: expected one of {spec.deployment_id!r}"
        )
    if loaded.humility is None:
        raise HumilityError(f"{file} has no humility section: there are no rules to try")
    try:
        tried = assigned(spec, [Assignment("humility", to_document(loaded)["humility"])])
    except SpecificationError as error:
        raise SpecificationError(f"{file}, tried on the deployment in force", error.flaws) from error
    assert tried.humility is not None
    return tried.humility
