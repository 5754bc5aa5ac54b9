"""Colours of a comparison's groups, for pictures and the page. Imports no matplotlib."""

# Okabe and Ito's colours, which stay apart for colour-blind eyes, as dark as text on white must be.
COLOURS = ("#0072b2", "#c44e00", "#007a5a", "#b3457e", "#8c6d00", "#5f6b77")
# The same on the page's dark ground.
ON_DARK = ("#56b4e9", "#f0883e", "#2fc79a", "#e08bb8", "#e0b400", "#a9b4c0")
# The page's ground, text and lines; light, then dark.
GROUND = ("#ffffff", "#171b21")
TEXT = ("#20252c", "#e6e9ee")
GRID = ("#b0b0b0", "#6b7683")


def variable(number: int) -> str:
    """Return the name of the page's variable for group colour `number`, from 0."""
    return f"--group{number}"


def as_css(dark: bool) -> str:
    """Return the page's variables."""
    groups = ON_DARK if dark else COLOURS
    values = {"--ink": TEXT[dark], "--ground": GROUND[dark], "--grid": GRID[dark]}
    values |= {variable(number): colour for number, colour in enumerate(groups)}
    return " ".join(f"{name}: {colour};" for name, colour in values.items())
