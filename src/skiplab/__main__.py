"""`python -m skiplab ...` is `skiplab ...`, where no scripts are on the PATH."""

from skiplab.cli.main import skiplab

# The processes of a study import this module under another name.
if __name__ == "__main__":
    skiplab()
