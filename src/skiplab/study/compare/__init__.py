"""What finished runs say when they are held against each other: groups, tests, tables, pictures, a page."""
