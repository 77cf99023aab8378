"""The run-time type checker that the tests put under every function of pruneft."""

from beartype import BeartypeConf, beartype

# A float annotation accepts an int, as static checkers have it (PEP 484).
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
