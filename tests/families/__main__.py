"""Print the README's table of families."""

from families import markdown

print(markdown())
