"""What cannot run here is not collected."""

from tests.support import namespaces

collect_ignore = [] if namespaces.available() else ["test_mass_failure.py"]
