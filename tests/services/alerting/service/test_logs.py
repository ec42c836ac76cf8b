"""What a start puts into the log."""

import subprocess
import sys

_PROGRAM = """
import sys
from pathlib import Path
from services.alerting.database.opening import open_database
from services.alerting.logs import configure_logging
configure_logging(())
open_database(f"sqlite:///{Path(sys.argv[1]) / 'alerting.db'}").close()
"""


def test_a_start_says_which_migration_runs_and_nothing_of_a_librarys_parts(tmp_path: object) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "Running upgrade" in done.stderr
    assert "plugin" not in done.stderr
