"""Run every case of every family, and print the README's table of families."""

from families import TABLE
from families.cases import CASES, layouts_in, markdown, outcome

cells = [(name, case) for name in TABLE for case in CASES if layouts_in(name, case)]
print(markdown({cell: outcome(*cell) for cell in cells}))
