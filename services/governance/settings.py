"""Settings of the governance service.

From the environment, or from the table ``[governance]`` of the file that ``DRIFTLINE_CONFIG`` names; the environment
wins.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.governance.errors import GovernanceError

_ENVIRONMENT = {
    "database_url": "DRIFTLINE_GOVERNANCE_DATABASE_URL",
    "key_file": "DRIFTLINE_AUDIT_KEY_FILE",
    "origin": "DRIFTLINE_AUDIT_ORIGIN",
    "seal_seconds": "DRIFTLINE_GOVERNANCE_SEAL_SECONDS",
    "seal_records": "DRIFTLINE_GOVERNANCE_SEAL_RECORDS",
    "recheck_records": "DRIFTLINE_GOVERNANCE_RECHECK_RECORDS",
    "give_up_seconds": "DRIFTLINE_GOVERNANCE_GIVE_UP_SECONDS",
}


class GovernanceSettings(BaseModel):
    """How the ledger is kept.

    Attributes:
        database_url: Where; ``sqlite:///PATH``.
        key_file: The private key that signs.
        origin: The name it signs under. Make it yours (``example.com/driftline-audit``) before the first start.
        seal_seconds: A checkpoint at most this often.
        seal_records: And one after so many records, whichever is first.
        recheck_records: How many of the last records are compared with the topic at every start.
        give_up_seconds: How long Kafka may be away before the service ends.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_url: str = "sqlite:///.driftline/governance.db"
    key_file: Path = Path(".driftline/audit-key")
    origin: Annotated[str, Field(pattern=r"^[^\s+]{1,200}$")] = "driftline.local/audit"
    seal_seconds: Annotated[float, Field(ge=0.0, le=3600.0)] = 1.0
    # 32 bytes a record: the checkpoint has to fit a message of Kafka's default size, 1 MB.
    seal_records: Annotated[int, Field(ge=1, le=20_000)] = 10_000
    recheck_records: Annotated[int, Field(ge=1)] = 100_000
    give_up_seconds: Annotated[float, Field(gt=0.0)] = 60.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> GovernanceSettings:
        """Read the settings.

        Raises:
            GovernanceError: A value cannot be used, or the file cannot be read.
        """
        env = os.environ if environment is None else environment
        given = _from_file(env.get("DRIFTLINE_CONFIG"))
        given.update({name: env[variable] for name, variable in _ENVIRONMENT.items() if env.get(variable)})
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise GovernanceError(f"{_ENVIRONMENT.get(name, f'[governance] {name}')}: {first['msg']}") from error


def _from_file(path: str | None) -> dict[str, Any]:
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text("utf-8")).get("governance", {})
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise GovernanceError(f"DRIFTLINE_CONFIG={path}: expected a readable TOML file: {error}") from error
    if not isinstance(table, dict):
        raise GovernanceError(f"DRIFTLINE_CONFIG={path}: expected [governance] to be a table")
    return table
