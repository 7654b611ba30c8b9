"""The run-time type checker that `conftest` puts around every function of the packages."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int is accepted where a float is annotated, as every static checker does (PEP 484, "the numeric tower").
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
