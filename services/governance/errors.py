"""What can go wrong in the governance service."""

from services.errors import ServicesError


class GovernanceError(ServicesError):
    """Base of every error of the governance service."""


class MerkleError(GovernanceError):
    """A tree or a proof that cannot be."""


class CheckpointError(GovernanceError):
    """A note, a checkpoint or a signature that does not stand."""


class KeyFileError(GovernanceError):
    """A key, or a file with one, that cannot be used."""


class LedgerError(GovernanceError):
    """The ledger's database cannot be used."""


class LedgerBusyError(LedgerError):
    """Another process is writing this ledger."""


class LedgerMismatchError(LedgerError):
    """The topic, the ledger and what was signed no longer agree: nothing more is signed until a person has looked."""


class TopicError(GovernanceError):
    """A topic that cannot be read."""


class ExportError(GovernanceError):
    """A file that is not an export of the audit record."""
