"""Compare finished runs: groups, tests, tables, pictures, a page."""
